#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0), Trainer: gradient_accumulation_steps=4 makes each step of a text classifier four times as long.
#
# Sixteen rows at once, or four times four with gradient_accumulation_steps=4: that the update is the same is what accumulation is for, and for
# language models Trainer takes pains about it (it counts tokens over all micro-batches). A classifier, whose loss is a mean over rows, is easier.
#
# Whether a loss is still to be divided by the number of micro-batches is read off forward(): one that takes **kwargs is supposed to divide by
# itself, as GPT2LMHeadModel does. The heads of BERT and GPT-2 for classes, tokens and masked words take **kwargs and do not: nobody divides, the
# gradient is four times that of the batch, and so is the loss that is logged, which is how one notices (0.69 for two classes is logged as
# 2.77). With SGD it is a rate four times as high; max_grad_norm (1.0 by default) clips four times as early; Adam's steps hardly change, so
# that the run looks well but for its losses. Images and question answering are right, and so is label_smoothing_factor, for which another
# piece of code computes the loss. Reported by a user in July (issue 47688). Way out: model.accepts_loss_kwargs = False.
#   BertForSequenceClassification: step 4.0 times as long, loss 4.0 times as large
#   GPT2ForSequenceClassification: step 4.0 times as long, loss 4.0 times as large
#   ViTForImageClassification: step 1.0 times as long, loss 1.0 times as large
#   BertForTokenClassification: step 4.0 times as long, loss 4.0 times as large
#   BertForQuestionAnswering: step 1.0 times as long, loss 1.0 times as large
#   BertForMaskedLM: step 4.0 times as long, loss 4.0 times as large
#   GPT2LMHeadModel: step 1.0 times as long, loss 1.0 times as large
#   BertForSequenceClassification, label_smoothing_factor=0.1: step 1.0 times as long, loss 1.0 times as large
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import tempfile
import warnings

warnings.simplefilter("ignore")
import torch
import transformers
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
ids = torch.randint(5, 50, (16, 8), generator=draw)
kinds = torch.randint(0, 2, (16,), generator=draw)
pictures = torch.randn(16, 3, 8, 8, generator=draw)
small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
gpt = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "pad_token_id": 0}


def rows(kind):
    for k in range(16):
        if kind is ViTForImageClassification:
            yield {"pixel_values": pictures[k], "labels": kinds[k]}
        elif kind is BertForQuestionAnswering:
            yield {"input_ids": ids[k], "start_positions": kinds[k], "end_positions": kinds[k] + 2}
        elif kind is BertForTokenClassification:
            yield {"input_ids": ids[k], "labels": ids[k] % 2}
        elif kind in (BertForMaskedLM, GPT2LMHeadModel):
            yield {"input_ids": ids[k], "labels": ids[k]}
        else:
            yield {"input_ids": ids[k], "labels": kinds[k]}


def model(kind):
    torch.manual_seed(0)
    if kind is ViTForImageClassification:
        config = ViTConfig(image_size=8, patch_size=4, **{k: v for k, v in small.items() if k != "vocab_size"}, **still)
    else:
        config = GPT2Config(**gpt) if kind.__name__.startswith("GPT2") else BertConfig(**small, **still)
    return kind(config)


def step(kind, size, parts, **options):
    """One SGD step on the same 16 rows: how far the weights go, and the loss that is logged."""
    net = model(kind)
    before = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=size, gradient_accumulation_steps=parts, num_train_epochs=1, learning_rate=0.01, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0, report_to=[], logging_steps=1, disable_tqdm=True, use_cpu=True, save_strategy="no", **options,
    )  # fmt: skip
    trainer = Trainer(net, arguments, train_dataset=list(rows(kind)))
    trainer.remove_callback(transformers.PrinterCallback)
    logged = trainer.train().training_loss
    return float((nn.utils.parameters_to_vector(net.parameters()).detach() - before).norm()), logged


def say(name, kind, **options):
    (far, loss), (parts, shown) = step(kind, 16, 1, **options), step(kind, 4, 4, **options)
    print(f"{name}: step {parts / far:.1f} times as long, loss {shown / loss:.1f} times as large")


classifiers = BertForSequenceClassification, GPT2ForSequenceClassification, ViTForImageClassification, BertForTokenClassification
for kind in (*classifiers, BertForQuestionAnswering, BertForMaskedLM, GPT2LMHeadModel):
    say(kind.__name__, kind)
say("BertForSequenceClassification, label_smoothing_factor=0.1", BertForSequenceClassification, label_smoothing_factor=0.1)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
BertForSequenceClassification: step 4.0 times as long, loss 4.0 times as large
GPT2ForSequenceClassification: step 4.0 times as long, loss 4.0 times as large
ViTForImageClassification: step 1.0 times as long, loss 1.0 times as large
BertForTokenClassification: step 4.0 times as long, loss 4.0 times as large
BertForQuestionAnswering: step 1.0 times as long, loss 1.0 times as large
BertForMaskedLM: step 4.0 times as long, loss 4.0 times as large
GPT2LMHeadModel: step 1.0 times as long, loss 1.0 times as large
BertForSequenceClassification, label_smoothing_factor=0.1: step 1.0 times as long, loss 1.0 times as large
SEEN
