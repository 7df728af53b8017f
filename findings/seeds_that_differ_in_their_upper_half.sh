#!/usr/bin/env bash
# torch 2.13.0 (CPU) and jax 0.10.2: two seeds that differ by a multiple of 4,294,967,296 are one seed.
#
# Both take a seed of 64 bits: torch's manual_seed names the range, up to 0xffff_ffff_ffff_ffff, and asks for a large number, of as many ones as zeros;
# `initial_seed()` gives back all of it. So one packs what makes a stream its own into the seed (run << 32, rank << 32 | step, the first
# eight bytes of a hash with its lower half cut off, a time in nanoseconds rounded to 2**32) and expects as many streams as numbers.
#
# torch's generator on the CPU is a Mersenne twister that is set up from the lower 32 bits. What is above is remembered, reported, saved in the state, and
# not used. jax drops it when the key is made (unless jax_enable_x64 is on), and its -1 is 4294967295. So eight ranks with `seed | rank << 32`
# have the same dropout, the same noise, the same shuffle, where each was to have its own: eight copies of a batch's augmentation, and
# an ensemble of eight with one initialisation. A check of the seeds finds them all different. `fork_rng`, the workers of a DataLoader (base seed + number) and
# DistributedSampler (seed + epoch) count in the lower half, and are right as long as the seeds that they are given differ there. numpy takes all bits.
# Way out: numpy.random.SeedSequence((seed, rank)).generate_state(1), or jax.random.fold_in.
#
# Output seen (CPU, x86_64, Python 3.11):
#   seeds 7 | rank << 32, rank 0 to 7; how many streams are different:
#     torch: noise 1, first weights 1, shuffles 1
#     torch: initial_seed() 8, get_state() 8
#     jax: keys 1; of seeds -1 and 2**32 - 1: 1
#     jax with 64 bits: keys 8
#     numpy: 8
#   seeds of a SeedSequence: torch 8, jax 8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2 2> /dev/null
cat > "$work/seeds.py" <<'PY'
import warnings

import jax
import numpy as np
import torch
from torch.utils.data import DataLoader

warnings.simplefilter("error")
RANKS = [7 | rank << 32 for rank in range(8)]


def count(streams):
    return len({tuple(stream) for stream in streams})


def noise(seed):
    return torch.randn(4, generator=torch.Generator().manual_seed(seed)).tolist()


def weights(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 2).weight.flatten().tolist()


def order(seed):
    rows = DataLoader(range(100), batch_size=None, shuffle=True, generator=torch.Generator().manual_seed(seed))
    return [int(row) for row in rows]


def key(seed):
    return jax.random.key_data(jax.random.key(seed)).tolist()


states = [torch.Generator().manual_seed(seed) for seed in RANKS]
print("seeds 7 | rank << 32, rank 0 to 7; how many streams are different:")
print(f"  torch: noise {count(map(noise, RANKS))}, first weights {count(map(weights, RANKS))}, shuffles {count(map(order, RANKS))}")
print(f"  torch: initial_seed() {len({state.initial_seed() for state in states})}, get_state() {count(s.get_state().tolist() for s in states)}")
print(f"  jax: keys {count(map(key, RANKS))}; of seeds -1 and 2**32 - 1: {count(map(key, (-1, 2**32 - 1)))}")
with jax.enable_x64(True):
    print(f"  jax with 64 bits: keys {count(map(key, RANKS))}")
print(f"  numpy: {count(np.random.default_rng(seed).random(4).tolist() for seed in RANKS)}")
mixed = [int(np.random.SeedSequence((7, rank)).generate_state(1)[0]) for rank in range(8)]
print(f"seeds of a SeedSequence: torch {count(map(noise, mixed))}, jax {count(map(key, mixed))}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/seeds.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
seeds 7 | rank << 32, rank 0 to 7; how many streams are different:
  torch: noise 1, first weights 1, shuffles 1
  torch: initial_seed() 8, get_state() 8
  jax: keys 1; of seeds -1 and 2**32 - 1: 1
  jax with 64 bits: keys 8
  numpy: 8
seeds of a SeedSequence: torch 8, jax 8
SEEN
