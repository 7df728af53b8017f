#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0), Trainer: gradient_accumulation_steps=8 makes the loss that balances the experts of a mixture eight times as heavy.
#
# A mixture of experts adds router_aux_loss_coef (0.001 to 0.02) times a measure of how unevenly its router spreads tokens. The coefficient is a delicate one: too small, and
# a few experts do all the work; too large, and the router spreads tokens evenly instead of well. 64 rows at once, or eight at a time with gradient_accumulation_steps=8,
# are the same step: of language models Trainer says that it is token-exact, and a test of it with any dense model, or with the balance switched off, agrees to seven digits.
#
# The sum over tokens is divided by the number of tokens in *all* micro-batches, so micro-batches are added and not averaged. The balance is added to that as it is,
# once in each micro-batch, and divided by nothing. So it counts as many times as there are micro-batches: with 32, a coefficient of 0.02 is one of 0.64, and
# a recipe that was tuned on eight cards is another one on a single card with accumulation, which is what accumulation is used for. All models of the kind have it. Only
# the router and what is below feel it; the loss that is logged has the balance in it as well, multiplied in the same way; that of evaluation has it once.
# Way out: router_aux_loss_coef divided by gradient_accumulation_steps; or a look at a gradient with the coefficient at 0 and not.
#
# Output seen (CPU, x86_64, Python 3.11), one step of SGD on 16 rows, which are eight times the same two, so that each micro-batch has the balance of all:
#   Mixtral   1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
#   Qwen3-MoE 1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
#   gpt-oss   1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
#   OLMoE     1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
#   Mixtral, the balance that is logged with the loss: 1.00, 2.00, 4.00, 8.00 times
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.24.0 accelerate==1.15.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import tempfile

import torch
import transformers as hf

hf.logging.set_verbosity_error()
torch.manual_seed(0)
two = torch.randint(3, 90, (2, 12))
rows = [{"input_ids": row, "labels": row.clone()} for _ in range(8) for row in two]
SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS = {
    "Mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, {"intermediate_size": 48, "num_local_experts": 4}),
    "Qwen3-MoE": (hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM, {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "gpt-oss": (hf.GptOssConfig, hf.GptOssForCausalLM, {"intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "OLMoE": (hf.OlmoeConfig, hf.OlmoeForCausalLM, {"intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}),
}


def step(config, kind, options, micro_batches, coefficient):
    """The gradient of one step, as what SGD with a rate of 1 takes off the weights; and the loss that is logged."""
    torch.manual_seed(1)
    model = kind(config(**SIZES, **options, output_router_logits=True, router_aux_loss_coef=coefficient))
    before = [weights.detach().clone() for weights in model.parameters()]
    arguments = hf.TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=16 // micro_batches, gradient_accumulation_steps=micro_batches, max_steps=1, learning_rate=1.0, optim="sgd",
        max_grad_norm=0, lr_scheduler_type="constant", train_sampling_strategy="sequential", report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )
    loss = hf.Trainer(model, arguments, train_dataset=rows).train().training_loss
    return torch.cat([(old - new.detach()).flatten().double() for old, new in zip(before, model.parameters(), strict=True)]), loss


def times(found, first):
    return ", ".join(f"{float(one @ first / (first @ first)):.2f}" for one in found)


for name, parts in MODELS.items():
    tokens, losses = zip(*(step(*parts, number, 0.0) for number in (1, 2, 4, 8)), strict=True)
    both, with_balance = zip(*(step(*parts, number, 0.1) for number in (1, 2, 4, 8)), strict=True)
    balance = [one - two for one, two in zip(both, tokens, strict=True)]
    print(f"{name:9} 1, 2, 4, 8 micro-batches: part of the tokens {times(tokens, tokens[0])} times as long; part of the balance {times(balance, balance[0])} times", flush=True)
    if name == "Mixtral":
        logged = [one - two for one, two in zip(with_balance, losses, strict=True)]
last = "Mixtral, the balance that is logged with the loss: " + ", ".join(f"{one / logged[0]:.2f}" for one in logged) + " times"
print(last)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | grep -v '^{' | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
Mixtral   1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
Qwen3-MoE 1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
gpt-oss   1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
OLMoE     1, 2, 4, 8 micro-batches: part of the tokens 1.00, 1.00, 1.00, 1.00 times as long; part of the balance 1.00, 2.00, 4.00, 8.00 times
Mixtral, the balance that is logged with the loss: 1.00, 2.00, 4.00, 8.00 times
SEEN
