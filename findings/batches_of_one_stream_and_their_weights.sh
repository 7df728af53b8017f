#!/usr/bin/env bash
# litdata 0.2.76 (torch 2.13.0): CombinedStreamingDataset(..., weights=[0.99, 0.01], batching_method="per_stream") gives every other batch to the one per cent.
#
# Two ways of mixing sets are offered: `stratified`, where each row is drawn from a set by the weights, and `per_stream`, where a batch is of one
# set (their shapes may differ) and the set is chosen "randomly", by the same weights. A guess: over many batches both give
# each set its share, and which of the two is taken is a matter of shapes.
#
# When a batch is full, the second way draws a set, and draws again for as long as it gets the one it comes from: a set never
# has two batches running. With two sets nothing is left to draw. They alternate, whatever the weights; a set that was to be
# 1% of the rows is half of them, and is used up fifty times too soon, which (`iterate_over_all=False`) ends the epoch.
# With more sets the shares become w(1 - w), made to add up to one: 0.8, 0.1, 0.1 turn into 0.47, 0.26, 0.26; no weights give a set more than half.
# Without weights the lengths are the weights, and rows come once each: then the first part of an epoch alternates, and from the moment the
# shorter set is used up the longer one is alone. `stratified` does as expected. Nothing warns; batch by batch each looks right.
#
# Output seen (CPU, x86_64, Python 3.11), share of rows of each set in 400 batches of 10, to 0.04:
#   stratified, weights 0.99 0.01: 0.99 0.01
#   per_stream, weights 0.99 0.01: 0.50 0.50, set of the first ten batches 0101010101
#   stratified, weights 0.8 0.1 0.1: 0.80 0.10 0.10
#   per_stream, weights 0.8 0.1 0.1: 0.47 0.26 0.26
#   per_stream, 1000 and 50 rows without weights: batches of the short set among the first ten 5, among the other 95 none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip torch==2.13.0 numpy==2.4.6 2> /dev/null
$pip boto3==1.44.8 lightning-utilities==0.15.3 filelock==4.3.1 requests==2.34.2 tifffile==2026.3.3 obstore==0.12.1 2> /dev/null
$pip --no-deps litdata==0.2.76 2> /dev/null # torchvision, which it names, is for pictures
cat > "$work/mix.py" <<'PY'
import itertools
import sys

from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset
from litdata.streaming.cache import Cache

EXPECTED = {("stratified", 2): (0.99, 0.01), ("per_stream", 2): (0.5, 0.5),
            ("stratified", 3): (0.8, 0.1, 0.1), ("per_stream", 3): (0.47, 0.26, 0.26)}


def stored(number, rows):
    """A streaming data set of `rows` rows that know which set they are of."""
    folder = f"{sys.argv[1]}/{number}_{rows}"
    cache = Cache(folder, chunk_size=500)
    for row in range(rows):
        cache[row] = {"set": number, "row": row}
    cache.done()
    cache.merge()
    return folder


def drawn(folders, batches, **how):
    """The sets of each batch's rows."""
    mixed = CombinedStreamingDataset([StreamingDataset(folder) for folder in folders], seed=1, **how)
    loader = StreamingDataLoader(mixed, batch_size=10, num_workers=0)
    return [batch["set"].tolist() for batch in itertools.islice(loader, batches)]


if __name__ == "__main__":
    folders = [stored(number, 4000) for number in range(3)]
    for weights in ([0.99, 0.01], [0.8, 0.1, 0.1]):
        for method in ("stratified", "per_stream"):
            sets = drawn(folders[: len(weights)], 400, weights=weights, batching_method=method, iterate_over_all=False)
            rows = list(itertools.chain(*sets))
            found = [rows.count(k) / len(rows) for k in range(len(weights))]
            near = all(abs(f - e) < 0.04 for f, e in zip(found, EXPECTED[method, len(weights)]))
            shares = " ".join(f"{share:.2f}" for share in (EXPECTED[method, len(weights)] if near else found))
            first = ", set of the first ten batches " + "".join(str(s[0]) for s in sets[:10])
            more = first if len(weights) == 2 and method == "per_stream" else ""
            print(f"{method}, weights {' '.join(map(str, weights))}: {shares}{more}")
    sets = [s[0] for s in drawn([stored(0, 1000), stored(1, 50)], None, batching_method="per_stream")]
    print("per_stream, 1000 and 50 rows without weights: batches of the short set among the first ten", sets[:10].count(1),
          "among the other", len(sets) - 10, sets[10:].count(1) or "none")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/mix.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
stratified, weights 0.99 0.01: 0.99 0.01
per_stream, weights 0.99 0.01: 0.50 0.50, set of the first ten batches 0101010101
stratified, weights 0.8 0.1 0.1: 0.80 0.10 0.10
per_stream, weights 0.8 0.1 0.1: 0.47 0.26 0.26
per_stream, 1000 and 50 rows without weights: batches of the short set among the first ten 5 among the other 95 none
SEEN
