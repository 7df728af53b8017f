#!/usr/bin/env bash
# rotary-embedding-torch 0.9.1 (torch 2.13.0), rotate_queries_or_keys of bfloat16: from word 257 on, neighbours share a place; 4,096 words have 769.
#
# Rotary embeddings turn each query and key by an angle that is its place in the text, and attention sees how far apart two words are. Texts are trained in
# bfloat16, by autocast or throughout. One expects the angle in float32, and the last step, the turned vector, rounded to bfloat16 as all else is: a
# relative error of half a per cent at any place. The frequencies are in a buffer of float32, and the function that turns has autocast switched off.
#
# The places themselves are counted in the dtype of the query. bfloat16 has whole numbers up to 256; then every second, fourth, eighth one. Word 1001 stands
# where words 998 to 1002 stand, word 4001 where seventeen do: within those, attention cannot know the order, and across them distances are off by
# up to eight. Short texts, as tests have them, are right. A loss goes down all the same, the more local heads being blind. Besides, the angles of the first
# call are kept, so that float32 calls of the same module are wrong as well from then on (evaluation in float32 after training under autocast).
# Way out: queries and keys to float32 before this call, and back after it, which gives all 4,096. float16 has whole numbers up to 2,048.
#
# Output seen (CPU, x86_64, Python 3.11)
#   256 places, of which different: float32 256; bfloat16 256, module in bfloat16 too 256; turned in float32, then bfloat16 256
#   1024 places, of which different: float32 1024; bfloat16 513, module in bfloat16 too 513; turned in float32, then bfloat16 1024
#   4096 places, of which different: float32 4096; bfloat16 769, module in bfloat16 too 769; turned in float32, then bfloat16 4096
#   4096 places in float32, by a module that was first called with the output of a layer under autocast: 769
#   in bfloat16, place 257 is turned as places 256 to 257
#   in bfloat16, place 1001 is turned as places 998 to 1002
#   in bfloat16, place 4001 is turned as places 3992 to 4008
#   the nearest place before is found, float32: among the first 250 in 1.0, beyond 2,048 in 1.0
#   the nearest place before is found, bfloat16: among the first 250 in 1.0, beyond 2,048 in 0.1
#   the nearest place before is found, turned in float32, then bfloat16: among the first 250 in 1.0, beyond 2,048 in 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rotary-embedding-torch==0.9.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from rotary_embedding_torch import RotaryEmbedding

torch.manual_seed(0)


def turned(length, dtype, module=None, cast=False):
    """The same query vector at each place, turned by its place."""
    rotary = RotaryEmbedding(dim=64).to(module or torch.float32)
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(dtype).expand(1, 1, length, 64)
    if cast:
        return rotary.rotate_queries_or_keys(vector.float()).to(dtype)[0, 0].float()
    return rotary.rotate_queries_or_keys(vector)[0, 0].float()


def different(places):
    return len(torch.unique(places, dim=0))


for length in (256, 1024, 4096):
    counts = [different(turned(length, torch.float32)), different(turned(length, torch.bfloat16)),
              different(turned(length, torch.bfloat16, torch.bfloat16)), different(turned(length, torch.bfloat16, cast=True))]
    print(f"{length} places, of which different: float32 {counts[0]}; bfloat16 {counts[1]}, module in bfloat16 too {counts[2]}; turned in float32, then bfloat16 {counts[3]}")
rotary = RotaryEmbedding(dim=64)
mixed = torch.nn.Linear(64, 64)
with torch.autocast("cpu", torch.bfloat16):
    rotary.rotate_queries_or_keys(mixed(torch.randn(1, 1, 4096, 64)))
after = different(rotary.rotate_queries_or_keys(torch.ones(1, 1, 4096, 64))[0, 0])
print(f"4096 places in float32, by a module that was first called with the output of a layer under autocast: {after}")
places = turned(4096, torch.bfloat16)
for place in (257, 1001, 4001):
    alike = (places == places[place]).all(1).nonzero().flatten().tolist()
    print(f"in bfloat16, place {place} is turned as place{'s' if len(alike) > 1 else ''} {alike[0]} to {alike[-1]}")

# a head of attention that is to find the word before: of all words up to there, the score should be highest one place back
def one_back(dtype, cast=False, length=4096):
    rotary = RotaryEmbedding(dim=64)
    vector = torch.ones(1, 1, length, 64, dtype=torch.float32 if cast else dtype)
    keys = rotary.rotate_queries_or_keys(vector)[0, 0].to(dtype).float()
    queries = rotary.rotate_queries_or_keys(vector)[0, 0].to(dtype).float()
    best = (queries[1:] @ keys[:-1].T).masked_fill(torch.ones(length - 1, length - 1).triu(1).bool(), -1e9).argmax(1)
    right = best == torch.arange(length - 1)
    return [f"{float(part.float().mean()):.1f}" for part in (right[:250], right[2048:])]


for name, found in (("float32", one_back(torch.float32)), ("bfloat16", one_back(torch.bfloat16)), ("turned in float32, then bfloat16", one_back(torch.bfloat16, cast=True))):
    print(f"the nearest place before is found, {name}: among the first 250 in {found[0]}, beyond 2,048 in {found[1]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
256 places, of which different: float32 256; bfloat16 256, module in bfloat16 too 256; turned in float32, then bfloat16 256
1024 places, of which different: float32 1024; bfloat16 513, module in bfloat16 too 513; turned in float32, then bfloat16 1024
4096 places, of which different: float32 4096; bfloat16 769, module in bfloat16 too 769; turned in float32, then bfloat16 4096
4096 places in float32, by a module that was first called with the output of a layer under autocast: 769
in bfloat16, place 257 is turned as places 256 to 257
in bfloat16, place 1001 is turned as places 998 to 1002
in bfloat16, place 4001 is turned as places 3992 to 4008
the nearest place before is found, float32: among the first 250 in 1.0, beyond 2,048 in 1.0
the nearest place before is found, bfloat16: among the first 250 in 1.0, beyond 2,048 in 0.1
the nearest place before is found, turned in float32, then bfloat16: among the first 250 in 1.0, beyond 2,048 in 1.0
SEEN
