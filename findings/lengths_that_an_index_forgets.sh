#!/usr/bin/env bash
# usearch 2.26.6, Index(ndim, metric="l2sq" or "ip", dtype="i8"): the nearest rows are those of another metric, the cosine; of the ten nearest it has four, of the ten largest products one.
#
#     index = Index(ndim=32, metric="l2sq", dtype="i8")        index.add(keys, rows); index.search(queries, 10)        # rows in float32
#
# dtype says how vectors are stored: f32, f16, bf16 or i8, from 32 to 8 bits a number. The rows are handed over in float32 in each case. What one expects to lose is digits: a
# neighbour here and there, as between f32 and bf16, and 1/127 of the range with 8 bits. For embeddings of length 1, with which it is tested, that is so.
#
# Each vector is divided by its own length before it is rounded, whatever the metric. A row and ten times the row are one row in the index. For the cosine nothing is lost by that. The Euclidean distance and
# the product of vectors that have lengths (features of a table, factors of a recommender, whose length is how popular an item is, activations of a network) are computed of directions only. Neighbours and
# recommendations are then others, and distances are in units of no meaning (10,000 for 18). No option and no warning speaks of it when the index is made; keys, shapes and the index's
# own exact search, a measure of its recall, agree with one another. Way out: bf16 for these two; or integers of one's own scale, handed over as int8.
#
# Output seen (CPU, x86_64, Python 3.11), 5,000 rows of 32 numbers, of lengths that differ; of the 10 that numpy finds for each of 200 queries, the share that the index finds
#   cos  f32 over 0.95, bf16 over 0.95, i8 over 0.9
#   l2sq f32 over 0.95, bf16 over 0.95, i8 below 0.5, of the nearest by cosine over 0.9
#   ip   f32 over 0.95, bf16 over 0.95, i8 below 0.2, of the nearest by cosine over 0.9
#   a row and ten times the row are stored as the same numbers: f32 False, bf16 False, i8 True
#   l2sq, rounded to int8 by the caller, one scale for all: over 0.8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check usearch==2.26.6 numpy==2.4.6 2> /dev/null
cat > "$work/index.py" <<'PY'
import numpy as np
from usearch.index import Index

draw = np.random.default_rng(0)
rows = (draw.normal(size=(5000, 32)) * np.exp(draw.normal(size=(5000, 1)) / 2)).astype("float32")
queries = draw.normal(size=(200, 32)).astype("float32")


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


NEAR = {
    "cos": unit(queries) @ unit(rows).T,
    "l2sq": -np.square(queries[:, None] - rows).sum(-1),
    "ip": queries @ rows.T,
}
TEN = {metric: np.argsort(-near, axis=1)[:, :10] for metric, near in NEAR.items()}


def index_of(rows, metric, dtype):
    index = Index(ndim=rows.shape[1], metric=metric, dtype=dtype, expansion_add=200, expansion_search=1000)
    index.add(np.arange(len(rows)), rows, threads=1)
    return index


def share(found, metric):
    return np.mean([len(set(one.tolist()) & set(two.tolist())) / 10 for one, two in zip(found, TEN[metric], strict=True)])


def over(found, metric, bound):
    return f"over {bound}" if share(found, metric) > bound else f"{share(found, metric):.3f}"


def below(found, metric, bound):
    return f"below {bound}" if share(found, metric) < bound else f"{share(found, metric):.3f}"


for metric in NEAR:
    found = {dtype: index_of(rows, metric, dtype).search(queries, 10, threads=1).keys for dtype in ("f32", "bf16", "i8")}
    said = ", ".join(f"{dtype} {over(found[dtype], metric, 0.95)}" for dtype in ("f32", "bf16"))
    if metric == "cos":
        print(f"{metric:4} {said}, i8 {over(found['i8'], metric, 0.9)}")
    else:
        print(f"{metric:4} {said}, i8 {below(found['i8'], metric, 0.5 if metric == 'l2sq' else 0.2)}, of the nearest by cosine {over(found['i8'], 'cos', 0.9)}")
same = {}
for dtype in ("f32", "bf16", "i8"):
    index = index_of(np.concatenate([rows[:1], 10 * rows[:1]]), "l2sq", dtype)
    same[dtype] = np.array_equal(index.get(0), index.get(1))
print("a row and ten times the row are stored as the same numbers:", ", ".join(f"{dtype} {yes}" for dtype, yes in same.items()))
scale = 127 / np.quantile(np.abs(rows), 0.999)
whole = [np.clip(np.rint(values * scale), -127, 127).astype("int8") for values in (rows, queries)]
print("l2sq, rounded to int8 by the caller, one scale for all:", over(index_of(whole[0], "l2sq", "i8").search(whole[1], 10, threads=1).keys, "l2sq", 0.8))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/index.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
cos  f32 over 0.95, bf16 over 0.95, i8 over 0.9
l2sq f32 over 0.95, bf16 over 0.95, i8 below 0.5, of the nearest by cosine over 0.9
ip   f32 over 0.95, bf16 over 0.95, i8 below 0.2, of the nearest by cosine over 0.9
a row and ten times the row are stored as the same numbers: f32 False, bf16 False, i8 True
l2sq, rounded to int8 by the caller, one scale for all: over 0.8
SEEN
