#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0), attention_mask of ConvBERT and FNet: the label of a word depends on how long the other texts of its batch are.
#
# A mask of padded places is what makes a batch of texts of different length possible: with it a text has the same scores in a batch, and in each batch, as by
# itself. All encoders of the library have it as an argument, and one Trainer, collator and loop for all of them. One tries BERT, and goes on to others.
#
# BERT and DeBERTa-v2 (whose convolution is masked) keep to it. ConvBERT hands the mask to its attention only: the convolution beside it, half of each layer,
# reads four places to the right, where embeddings of padding are not zero (they have a position and a norm), so that the last words of each text,
# through more layers more of them, have other scores with padding behind them than without. Names at the end of a sentence are told otherwise in a batch than
# when they are served one by one, and otherwise after sorting by length. FNet has no mask at all; it takes attention_mask, as any argument it does not know,
# by **kwargs, and drops it: most labels are others. (Its page asks for one fixed length; the call does not.) No error, no warning, the loss falls.
# Way out: batches of one length; or all texts padded to one length, in training and after it.
#
# Output seen (CPU, x86_64, Python 3.11), models made at random, 1,000 texts, against each text by itself:
#   BERT: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: none, none, none
#   DeBERTa-v2 with its convolution: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: none, none, none
#   ConvBERT: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: over 0.2%, over 0.2%, over 0.2%
#   FNet: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: over 30.0%, over 30.0%, over 30.0%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.24.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from transformers import BertConfig, BertForTokenClassification, ConvBertConfig, ConvBertForTokenClassification
from transformers import DebertaV2Config, DebertaV2ForTokenClassification, FNetConfig, FNetForTokenClassification

SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0, "num_labels": 5}
MODELS = {
    "BERT": (BertConfig, BertForTokenClassification, {}),
    "DeBERTa-v2 with its convolution": (DebertaV2Config, DebertaV2ForTokenClassification, {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "ConvBERT": (ConvBertConfig, ConvBertForTokenClassification, {"embedding_size": 32}),
    "FNet": (FNetConfig, FNetForTokenClassification, {}),
}
torch.manual_seed(0)
texts = torch.randint(3, 90, (1000, 12))  # texts of twelve tokens


def made(config, kind, options):
    torch.manual_seed(1)
    model = kind(config(**SIZES, **options)).eval()
    for weights in model.parameters():  # weights as far apart as after training; the embedding of the padding stays zero
        if weights.ndim > 1:
            weights.data.mul_(5)
    return model


@torch.no_grad()
def labels(model, padding):
    """The label of each token, of texts padded by so many places, all of which the mask leaves out."""
    ids = torch.cat([texts, torch.zeros(len(texts), padding, dtype=torch.long)], 1)
    mask = (torch.arange(ids.shape[1]) < 12).long().expand_as(ids)
    return model(ids, attention_mask=mask).logits[:, :12].argmax(2)


def said(share):
    return "none" if share == 0 else next(f"over {bound:.1%}" for bound in (0.3, 0.1, 0.002) if share > bound) if share > 0.002 else "under 0.2%"


for name, parts in MODELS.items():
    model, told = made(*parts), []
    alone = labels(model, 0)
    for padding in (1, 8, 100):
        other = (labels(model, padding) != alone).double().mean(0)
        told.append(said(float(other[8:].mean())))
    print(f"{name}: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: {', '.join(told)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
BERT: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: none, none, none
DeBERTa-v2 with its convolution: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: none, none, none
ConvBERT: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: over 0.2%, over 0.2%, over 0.2%
FNet: other labels in the last four of twelve words, by 1, 8 and 100 places of padding: over 30.0%, over 30.0%, over 30.0%
SEEN
