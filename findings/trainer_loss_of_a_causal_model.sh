#!/usr/bin/env bash
# transformers 5.24.0, Trainer: the loss of a causal language model by another name than ...ForCausalLM, and of evaluation in batches.
#
# A good guess: for rows of different lengths, padded by labels of -100, `training_loss` (rate 0, one epoch) and `eval_loss` are the
# model's own loss: the sum over predicted tokens by their number, whatever the batch. Training is documented as token-exact.
# What happens, for two models that give the same scores:
# - The first label of a row is predicted by nothing. Trainer leaves it out of the number it divides by only where `model.loss_type`
#   says ForCausalLM, and that is read off the name of the class: LlamaForCausalLM has it, GPT2LMHeadModel has None (so have
#   OpenAIGPTLMHeadModel, CTRLLMHeadModel, XLNetLMHeadModel, ReformerModelWithLMHead, BertLMHeadModel), though `loss_function` falls
#   back to the same shifted loss. There k labels count as k where k - 1 are predicted: of 3 labels, the loss reported and the
#   gradient trained on are 2/3 of the model's own. Micro-batches agree with one another, so comparing them does not show it.
# - Training weighs by tokens, evaluation by rows, for both models: each batch has its mean, and the means are averaged over rows.
#   `eval_loss` moves with `per_device_eval_batch_size` alone, 0.380 to 2.627 when rows of like length lie together, and cannot be
#   compared with the training loss of the same rows.
#
# Output seen (CPU, x86_64, Python 3.11):
#   GPT2LMHeadModel, loss_type None
#     the model's own loss: 16 rows 0.380, the last row alone 5.027
#     training_loss in micro-batches of 16 and 4: 0.368 0.368
#     eval_loss in batches of 16 and 4: 0.368 1.788
#     eval_loss of the last row alone: 3.351
#   LlamaForCausalLM, loss_type ForCausalLM
#     the model's own loss: 16 rows 0.380, the last row alone 5.027
#     training_loss in micro-batches of 16 and 4: 0.380 0.380
#     eval_loss in batches of 16 and 4: 0.380 2.627
#     eval_loss of the last row alone: 5.027
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6
cat > "$work/loss.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

transformers.logging.set_verbosity_error()
ids = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **ids))
llama = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **ids))
with torch.no_grad():  # both give token 5, which the long rows are made of, 4.8 more than the others, at every place
    gpt2.transformer.ln_f.weight.zero_()
    gpt2.transformer.ln_f.bias.fill_(1.0)
    llama.model.embed_tokens.weight.fill_(1.0)
    llama.model.layers[0].self_attn.o_proj.weight.zero_()
    llama.model.layers[0].mlp.down_proj.weight.zero_()
    for model in (gpt2, llama):
        model.lm_head.weight.zero_()
        model.lm_head.weight[5] = 0.3


def row(token, labels):
    place, tokens = torch.arange(64), torch.full((64,), token)
    return {"input_ids": tokens, "labels": tokens.where(place < labels, -100), "attention_mask": (place < labels).long()}


rows = [row(5, 62) for _ in range(8)] + [row(9, 3) for _ in range(8)]  # eight long rows, then eight short ones


def own_loss(model, some):
    with torch.no_grad():
        return float(model.eval()(**{key: torch.stack([r[key] for r in some]) for key in some[0]}).loss)


def trainer(model, some, **more):
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    arguments = TrainingArguments(sys.argv[1], learning_rate=0.0, num_train_epochs=1, **quiet, **more)
    made = Trainer(model, arguments, train_dataset=some, eval_dataset=some)
    made.remove_callback(PrinterCallback)
    return made


def trained(model, size):
    made = trainer(model, rows, per_device_train_batch_size=size, gradient_accumulation_steps=16 // size)
    return made.train().training_loss


def evaluated(model, size, some=rows):
    return trainer(model, some, per_device_eval_batch_size=size).evaluate()["eval_loss"]


for model in (gpt2, llama):
    print(f"{type(model).__name__}, loss_type {model.loss_type}")
    print(f"  the model's own loss: 16 rows {own_loss(model, rows):.3f}, the last row alone {own_loss(model, rows[-1:]):.3f}")
    print("  training_loss in micro-batches of 16 and 4:", *(f"{trained(model, size):.3f}" for size in (16, 4)))
    print("  eval_loss in batches of 16 and 4:", *(f"{evaluated(model, size):.3f}" for size in (16, 4)))
    print(f"  eval_loss of the last row alone: {evaluated(model, 1, rows[-1:]):.3f}")
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/loss.py" "$work/out" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
GPT2LMHeadModel, loss_type None
  the model's own loss: 16 rows 0.380, the last row alone 5.027
  training_loss in micro-batches of 16 and 4: 0.368 0.368
  eval_loss in batches of 16 and 4: 0.368 1.788
  eval_loss of the last row alone: 3.351
LlamaForCausalLM, loss_type ForCausalLM
  the model's own loss: 16 rows 0.380, the last row alone 5.027
  training_loss in micro-batches of 16 and 4: 0.380 0.380
  eval_loss in batches of 16 and 4: 0.380 2.627
  eval_loss of the last row alone: 5.027
SEEN
