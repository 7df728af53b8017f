#!/usr/bin/env bash
# tokenizers 0.23.3 (and transformers 5.24.0): BPE(dropout=0.1), a help in training, is on in each place where the tokenizer is ever read, for ever.
#
#     tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", dropout=0.1))     ... train, encode, and save_pretrained(folder) beside the weights
#
# Some merges are left out by chance, so that a model sees a word in several cuts. By its name and its purpose it is what nn.Dropout is: something of
# training, off in evaluation, off in what is loaded for use, and drawn from a generator that can be seeded.
#
# There is no such mode. The number is one more field of the vocabulary in tokenizer.json, and each reader of the file has it on: from_file,
# AutoTokenizer, servers. The same sentence has a hundred cuts in a hundred calls, and half as many tokens again as it should; a score of evaluation, a
# cache of embeddings, an index of vectors are noise in part, and still look sane. What one would try does nothing: a dropout=None or 0.0 given to
# from_pretrained is taken without a word, random.seed does not reach the generator (nor does any other seed), tokenizer_config.json does not have the
# number, and train_new_from_iterator hands it on to the next tokenizer. Way out: tokenizer.backend_tokenizer.model.dropout = None for whatever is not
# training, and before the save.
#
# Output seen (x86_64, Python 3.11), a sentence of 14 words, each a token, in 100 calls
#   without dropout: 1 cut, 14 tokens
#   as made: many cuts, over 18 tokens on average
#   tokenizers, read from the file: many cuts, over 18 tokens on average
#   AutoTokenizer: many cuts, over 18 tokens on average
#   AutoTokenizer, dropout=None: many cuts, over 18 tokens on average
#   AutoTokenizer, dropout=0.0: many cuts, over 18 tokens on average
#   random.seed(0) before each call: many cuts, over 18 tokens on average
#   train_new_from_iterator: many cuts, over 18 tokens on average
#   backend_tokenizer.model.dropout = None: 1 cut, 14 tokens
#   dropout in tokenizer.json True, in tokenizer_config.json False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3 2> /dev/null
cat > "$work/cuts.py" <<'PY'
import os
import random
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "the quick brown foxes were running through lowest newest widest forests again and again"
FOLDER = Path(sys.argv[1]) / "saved"


def fresh(dropout):
    pieces = Tokenizer(models.BPE(unk_token="[UNK]", dropout=dropout))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.train_from_iterator([TEXT] * 50, trainers.BpeTrainer(special_tokens=["[UNK]"], vocab_size=500, show_progress=False))
    return pieces


def told(name, encode):
    cuts = [tuple(encode(TEXT)) for _ in range(100)]
    kinds, length = len(set(cuts)), sum(map(len, cuts)) / 100
    print(f"{name}:", "many cuts, over 18 tokens on average" if kinds > 50 and length > 18 else f"{kinds} cut, {length:.0f} tokens")


def by(tokenizer):
    return lambda text: tokenizer(text)["input_ids"]


def seeded(text):
    random.seed(0)
    return tokenizer(text)["input_ids"]


told("without dropout", lambda text: fresh(None).encode(text).ids)
made = fresh(0.1)
told("as made", lambda text: made.encode(text).ids)
PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(FOLDER)
alone = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
told("tokenizers, read from the file", lambda text: alone.encode(text).ids)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
told("AutoTokenizer", by(tokenizer))
told("AutoTokenizer, dropout=None", by(AutoTokenizer.from_pretrained(FOLDER, dropout=None)))
told("AutoTokenizer, dropout=0.0", by(AutoTokenizer.from_pretrained(FOLDER, dropout=0.0)))
told("random.seed(0) before each call", seeded)
told("train_new_from_iterator", by(tokenizer.train_new_from_iterator([TEXT] * 50, 500, show_progress=False)))
tokenizer.backend_tokenizer.model.dropout = None
told("backend_tokenizer.model.dropout = None", by(tokenizer))
held = ['"dropout": 0.1' in (FOLDER / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")]
print(f"dropout in tokenizer.json {held[0]}, in tokenizer_config.json {held[1]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/cuts.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
without dropout: 1 cut, 14 tokens
as made: many cuts, over 18 tokens on average
tokenizers, read from the file: many cuts, over 18 tokens on average
AutoTokenizer: many cuts, over 18 tokens on average
AutoTokenizer, dropout=None: many cuts, over 18 tokens on average
AutoTokenizer, dropout=0.0: many cuts, over 18 tokens on average
random.seed(0) before each call: many cuts, over 18 tokens on average
train_new_from_iterator: many cuts, over 18 tokens on average
backend_tokenizer.model.dropout = None: 1 cut, 14 tokens
dropout in tokenizer.json True, in tokenizer_config.json False
SEEN
