#!/usr/bin/env bash
# transformers 5.24.0 and tokenizers 0.23.3: called with max_length=4 and then saved, a tokenizer cuts all texts at 4, for every reader but one.
#
#     tokenizer(texts, truncation=True, max_length=4, padding="max_length")      # an argument of a call, like others
#     tokenizer.save_pretrained(folder)                                          # after training, beside the weights
#
# A call's arguments are that call's. The next call of `tokenizer`, without them, does give all tokens, and so does AutoTokenizer when it has read the
# folder, so that a round trip in a test passes.
#
# But truncation and padding are switched on in the Rust tokenizer underneath, stay on until the next call through transformers, and are written into
# tokenizer.json with the vocabulary. Whoever reads that file itself, tokenizers.Tokenizer.from_file and what is built on it (servers in Rust,
# bindings of other languages, loaders that want no transformers), has them on from the start: each text ends after 4 tokens, and short ones
# are padded to 4. A service then embeds or classifies the beginnings of texts; it answers, only worse. Which limit it is, is decided by the
# last call before the save, often that of an evaluation or of one test sentence; a save before any call has none. `tokenizer_config.json` and
# `model_max_length` say nothing of it. In one process the same: tokenizer.backend_tokenizer.encode after such a call. Way out: before the save,
# tokenizer.backend_tokenizer.no_truncation() and no_padding().
#
# Output seen (x86_64, Python 3.11), tokens of a text of ten words and of one of one word
#   saved before any call: AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
#   saved after a call with max_length=4: AutoTokenizer 10 and 1, tokenizers 4 and 4 | model_max_length set: False
#   saved after that and a plain call: AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
#   saved after that and no_truncation(): AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
#   in one process: backend 4 and 4; tokenizer 10 and 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

LONG, SHORT = "a b c d e f g h i j", "a"
folder = tempfile.mkdtemp()


def fresh():
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([LONG] * 3, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"]))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")


def lengths(encode):
    return f"{len(encode(LONG))} and {len(encode(SHORT))}"


def saved(name, prepare):
    tokenizer = fresh()
    prepare(tokenizer)
    tokenizer.save_pretrained(f"{folder}/{name}")
    alone = Tokenizer.from_file(f"{folder}/{name}/tokenizer.json")
    again = AutoTokenizer.from_pretrained(f"{folder}/{name}")
    print(f"{name}: AutoTokenizer {lengths(lambda text: again(text)['input_ids'])}, tokenizers {lengths(lambda text: alone.encode(text).ids)}",
          f"| model_max_length set: {again.model_max_length < 1e6}")


def cut(tokenizer):
    tokenizer([LONG, SHORT], truncation=True, max_length=4, padding="max_length")


def cut_then_plain(tokenizer):
    cut(tokenizer)
    tokenizer(LONG)


def cut_then_off(tokenizer):
    cut(tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


saved("saved before any call", lambda tokenizer: None)
saved("saved after a call with max_length=4", cut)
saved("saved after that and a plain call", cut_then_plain)
saved("saved after that and no_truncation()", cut_then_off)
tokenizer = fresh()
cut(tokenizer)
print(f"in one process: backend {lengths(lambda text: tokenizer.backend_tokenizer.encode(text).ids)};",
      f"tokenizer {lengths(lambda text: tokenizer(text)['input_ids'])}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
saved before any call: AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
saved after a call with max_length=4: AutoTokenizer 10 and 1, tokenizers 4 and 4 | model_max_length set: False
saved after that and a plain call: AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
saved after that and no_truncation(): AutoTokenizer 10 and 1, tokenizers 10 and 1 | model_max_length set: False
in one process: backend 4 and 4; tokenizer 10 and 1
SEEN
