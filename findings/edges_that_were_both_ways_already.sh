#!/usr/bin/env bash
# torch_geometric 2.8.1 (torch 2.13.0), ToUndirected: a graph whose edges go both ways comes out with the same edges and twice their weights.
#
# Graph networks want each edge in both directions, and files of graphs have it one way, or both ways, or as the collector happened to see it. T.ToUndirected() in front
# makes it safe, one reads: it adds what is missing, so that each edge has its reverse. Of a graph in which nothing is missing one expects the same graph back.
# is_undirected() is True before and after, the number of edges has not changed.
#
# Reverse edges are put beside the edges, and what is then there twice is added up: weights, distances, rates, all of edge_attr. Lengths become double lengths.
# In a file where some pairs are listed both ways and others once, the former are doubled and the latter not, so that a distance says how often a pair was
# listed. Applied a second time (as transform= after pre_transform=, or to what was saved), everything doubles again. A one-hot edge type has a 2 in
# it. A model trains on it as well as on anything, and graphs prepared by another hand do not fit it. Without edge attributes nothing is to be seen of it.
# The argument is reduce="add", its default, described as the way in which duplicate edges are merged. Way out: reduce="mean" or "max"; or is_undirected() asked first.
#
# Output seen (CPU, x86_64, Python 3.11), three places in a row, 1 km and 3 km apart
#   each pair once (directed):  0-1: 1, 1-0: 1, 1-2: 3, 2-1: 3 km
#   each pair both ways (undirected):  0-1: 2, 1-0: 2, 1-2: 6, 2-1: 6 km
#   one pair both ways (directed):  0-1: 2, 1-0: 2, 1-2: 3, 2-1: 3 km
#   each pair once, applied twice (directed):  0-1: 2, 1-0: 2, 1-2: 6, 2-1: 6 km
#   each pair both ways, reduce='mean' (undirected):  0-1: 1, 1-0: 1, 1-2: 3, 2-1: 3 km
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch_geometric==2.8.1 2> /dev/null
cat > "$work/edges.py" <<'PY'
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data


def told(name, pairs, lengths, transform=T.ToUndirected(), **more):
    graph = Data(x=torch.ones(3, 1), edge_index=torch.tensor(pairs).T, edge_attr=torch.tensor(lengths), **more)
    out = transform(graph.clone())
    edges = [f"{a}-{b}: {length:g}" for (a, b), length in zip(out.edge_index.T.tolist(), out.edge_attr.tolist(), strict=True)]
    print(f"{name} ({'undirected' if graph.is_undirected() else 'directed'}): ", ", ".join(edges), "km")


ONE, BOTH = [(0, 1), (1, 2)], [(0, 1), (1, 0), (1, 2), (2, 1)]
told("each pair once", ONE, [1.0, 3.0])
told("each pair both ways", BOTH, [1.0, 1.0, 3.0, 3.0])
told("one pair both ways", BOTH[:3], [1.0, 1.0, 3.0])
told("each pair once, applied twice", ONE, [1.0, 3.0], T.Compose([T.ToUndirected(), T.ToUndirected()]))
told("each pair both ways, reduce='mean'", BOTH, [1.0, 1.0, 3.0, 3.0], T.ToUndirected(reduce="mean"))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/edges.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
each pair once (directed):  0-1: 1, 1-0: 1, 1-2: 3, 2-1: 3 km
each pair both ways (undirected):  0-1: 2, 1-0: 2, 1-2: 6, 2-1: 6 km
one pair both ways (directed):  0-1: 2, 1-0: 2, 1-2: 3, 2-1: 3 km
each pair once, applied twice (directed):  0-1: 2, 1-0: 2, 1-2: 6, 2-1: 6 km
each pair both ways, reduce='mean' (undirected):  0-1: 1, 1-0: 1, 1-2: 3, 2-1: 3 km
SEEN
