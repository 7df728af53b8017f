#!/usr/bin/env bash
# gensim 4.4.0, Word2Vec, FastText and Doc2Vec: of a text of 60,000 words nothing after a certain place is trained; words that occur only there keep the vector drawn for them by chance.
#
#     model = Word2Vec(books, vector_size=100)             # one list of words per book, report, log, patient or walk through a graph
#
# The page says that a text is a list of words, and that windows do not reach over its ends; so one hands over whole documents. Their words are counted, all of them, for the vocabulary and
# `corpus_total_words`, and each has a vector. Long and short lists differ, one would guess, in a few windows.
#
# The compiled loop has room for 10,000 words, counted after frequent ones were thinned out (`sample`), and stops there, in each epoch at about the same place. No error, no warning; one parenthesis
# at `batch_words` tells of it. A word that comes later has its first, random vector at the end: neighbours by chance, a length that does not matter, and a classifier
# on top of it learns noise. Of Doc2Vec, a document's vector knows only its beginning; two books that differ from there on are alike. The same words, cut into lists of 1,000, are
# trained all. Way out: cut texts to at most 10,000 words (for Doc2Vec, several pieces with one tag).
#
# Output seen (CPU, x86_64, Python 3.11), 30,000 words a0 to a499, then 30,000 words b0 to b499, by Zipf's law; share of words whose vector has moved
#   Word2Vec one text of 60000 words   : 60000 words counted, moved: a 1.00, b 0.00
#   Word2Vec 60 texts of 1000 words    : 60000 words counted, moved: a 1.00, b 1.00
#   FastText one text of 60000 words   : 60000 words counted, moved: a 1.00, b 0.00
#   FastText 60 texts of 1000 words    : 60000 words counted, moved: a 1.00, b 1.00
#   without thinning (sample=0), the last place that moves a vector: 10000
#   Doc2Vec, two texts alike up to word 10,000 and of other words behind it: cosine of their vectors above 0.95; in pieces of 1,000 below 0.8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check gensim==4.4.0 numpy==2.4.6 2> /dev/null
cat > "$work/words.py" <<'PY'
import numpy as np
from gensim.models import Doc2Vec, FastText, Word2Vec
from gensim.models.doc2vec import TaggedDocument

OPTIONS = {"vector_size": 20, "min_count": 1, "workers": 1, "seed": 1}
draw = np.random.default_rng(0)


def part(letter, number):
    return [f"{letter}{place}" for place in draw.zipf(1.3, size=number) % 500]


def pieces(text, size=1000):
    return [text[start : start + size] for start in range(0, len(text), size)]


def moved(kind, texts, **options):
    model, first = kind(texts, epochs=5, **OPTIONS, **options), kind(**OPTIONS, **options)
    first.build_vocab(texts)
    return model, {word: not np.array_equal(model.wv.get_vector(word), first.wv.get_vector(word)) for word in model.wv.index_to_key}


book = part("a", 30000) + part("b", 30000)
for kind, options in ((Word2Vec, {}), (FastText, {"max_n": 0})):
    for name, texts in ((f"one text of {len(book)} words", [book]), ("60 texts of 1000 words", pieces(book))):
        model, found = moved(kind, texts, **options)
        shares = (np.mean([yes for word, yes in found.items() if word[0] == letter]) for letter in "ab")
        print(f"{kind.__name__} {name:26}: {model.corpus_total_words} words counted, moved: a {next(shares):.2f}, b {next(shares):.2f}")

one_by_one = [f"w{place}" for place in range(12000)]
_, found = moved(Word2Vec, [one_by_one], sample=0)
print("without thinning (sample=0), the last place that moves a vector:", max(int(word[1:]) for word, yes in found.items() if yes) + 1)

start = part("a", 10000)
books = {"one": start + part("b", 20000), "two": start + part("c", 20000)}


def cosine(cut):
    texts = [TaggedDocument(piece, [tag]) for tag, book in books.items() for piece in (pieces(book) if cut else [book])]
    model = Doc2Vec(texts, epochs=200 if not cut else 20, sample=0, **OPTIONS)
    return model.dv.similarity("one", "two")


whole, cut = cosine(False), cosine(True)
print(f"Doc2Vec, two texts alike up to word 10,000 and of other words behind it: cosine of their vectors {'above 0.95' if whole > 0.95 else whole}; "
      f"in pieces of 1,000 {'below 0.8' if cut < 0.8 else cut}")
PY
OMP_NUM_THREADS=1 PYTHONHASHSEED=0 "$work/venv/bin/python" -W ignore "$work/words.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
Word2Vec one text of 60000 words   : 60000 words counted, moved: a 1.00, b 0.00
Word2Vec 60 texts of 1000 words    : 60000 words counted, moved: a 1.00, b 1.00
FastText one text of 60000 words   : 60000 words counted, moved: a 1.00, b 0.00
FastText 60 texts of 1000 words    : 60000 words counted, moved: a 1.00, b 1.00
without thinning (sample=0), the last place that moves a vector: 10000
Doc2Vec, two texts alike up to word 10,000 and of other words behind it: cosine of their vectors above 0.95; in pieces of 1,000 below 0.8
SEEN
