#!/usr/bin/env bash
# pytrec_eval-terrier 0.5.11, RelevanceEvaluator(qrel, {"recip_rank"}).evaluate(run): what a document is called decides where it stands, among scores that are different.
#
# A run gives each document a score, a Python float; they are ranked by it, highest first. A reranker that puts the right one first in each query has a reciprocal rank of 1.0.
#
# trec_eval, which it wraps, keeps scores in float32, and breaks ties by name, the *last* in the alphabet first. So scores that differ behind the seventh digit are ties: probabilities of a sure
# classifier (0.99999999 before 0.99999998), sums with a large constant, times in seconds. Then the right document is first if it is called "z", and last if it is called "a"; a model that
# says the same of all documents, one that has not been trained, has a perfect score on a collection whose relevant documents were numbered last, and a bad one when they were
# numbered first. Nor is the order of the run kept, as a stable sort in Python keeps it. Way out: give ranks, not scores ({name: -place}), with ties broken in one's own way.
#
# Output seen (CPU, x86_64, Python 3.11), 100 queries of 10 documents, one relevant; mean reciprocal rank, by numpy in float64 and by pytrec_eval
#   logits, the right one first: numpy 1.00, pytrec_eval if the relevant document is called a 1.00, if it is called z 1.00
#   their probabilities        : numpy 1.00, pytrec_eval if the relevant document is called a 0.11, if it is called z 1.00
#   logits and 1e9             : numpy 1.00, pytrec_eval if the relevant document is called a 0.10, if it is called z 1.00
#   ranks of the probabilities : numpy 1.00, pytrec_eval if the relevant document is called a 1.00, if it is called z 1.00
#   one score for all          : numpy 0.29, pytrec_eval if the relevant document is called a 0.10, if it is called z 1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pytrec_eval-terrier==0.5.11 numpy==2.4.6 2> /dev/null
cat > "$work/ranks.py" <<'PY'
import numpy as np
import pytrec_eval

draw = np.random.default_rng(0)
LOGITS = draw.uniform(17, 20, (100, 10))
LOGITS[:, 0] = 21


def probability(logits):
    return 1 / (1 + np.exp(-logits))


def reciprocal(scores):
    """Mean over queries of scores (query, document), of which the first is relevant, and over the orders of those that are equal."""
    better, equal = (scores > scores[:, :1]).sum(1), (scores == scores[:, :1]).sum(1)
    return np.mean([np.mean(1 / (1 + more + np.arange(same))) for more, same in zip(better, equal)])


for title, scores in (("logits, the right one first", LOGITS), ("their probabilities", probability(LOGITS)), ("logits and 1e9", LOGITS + 1e9), ("ranks of the probabilities", probability(LOGITS).argsort(1).argsort(1)),
                      ("one score for all", np.ones((100, 10)))):
    found = []
    for names in ("abcdefghij", "zbcdefghij"):
        qrel = {str(query): {names[0]: 1} for query in range(100)}
        run = {str(query): dict(zip(names, map(float, row))) for query, row in enumerate(scores)}
        found.append(np.mean([each["recip_rank"] for each in pytrec_eval.RelevanceEvaluator(qrel, {"recip_rank"}).evaluate(run).values()]))
    print(f"{title:27}: numpy {reciprocal(scores):.2f}, pytrec_eval if the relevant document is called a {found[0]:.2f}, if it is called z {found[1]:.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/ranks.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
logits, the right one first: numpy 1.00, pytrec_eval if the relevant document is called a 1.00, if it is called z 1.00
their probabilities        : numpy 1.00, pytrec_eval if the relevant document is called a 0.11, if it is called z 1.00
logits and 1e9             : numpy 1.00, pytrec_eval if the relevant document is called a 0.10, if it is called z 1.00
ranks of the probabilities : numpy 1.00, pytrec_eval if the relevant document is called a 1.00, if it is called z 1.00
one score for all          : numpy 0.29, pytrec_eval if the relevant document is called a 0.10, if it is called z 1.00
SEEN
