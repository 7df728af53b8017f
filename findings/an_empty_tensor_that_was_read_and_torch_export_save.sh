#!/usr/bin/env bash
# torch 2.13.0 and safetensors 0.8.0: torch.export.save refuses a program with an empty constant that was read from a file.
#
# A good guess: a program that torch.export.export has traced can be saved, and whether a constant of it was made by torch or
# read by safetensors makes no difference: type, shape and values are the same.
# What happens: an empty tensor (no classes, no columns of some kind) of torch.zeros(0) is saved; one that safetensors (or
# numpy) has made, or that is a slice of another, ends `torch.export.save` with "RuntimeError: numel: integer multiplication
# overflow", after a warning of slices: such a tensor has a storage with an address, and none that it fills. Both programs
# compute the same, before they are saved. `torch.empty_like` of such a tensor is saved.
#
# Output seen (CPU, x86_64, Python 3.11):
#   made by torch: saved; read by safetensors: RuntimeError numel: integer multiplication overflow; empty_like of it: saved
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
cat > "$work/empty.py" <<'PY'
import sys

import safetensors.torch
import torch


class Chosen(torch.nn.Module):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, x):
        return x.sum(1) + x.index_select(1, self.at).sum(1)


def outcome(at):
    program = torch.export.export(Chosen(at), (torch.ones(2, 4),))
    assert program.module()(torch.ones(2, 4)).tolist() == [4.0, 4.0]
    try:
        torch.export.save(program, f"{sys.argv[1]}/program.pt2")
    except RuntimeError as error:
        return f"RuntimeError {str(error).splitlines()[0]}"
    return "saved"


safetensors.torch.save_file({"at": torch.zeros(0, dtype=torch.int64), "more": torch.ones(3)}, f"{sys.argv[1]}/t.safetensors")
read = safetensors.torch.load_file(f"{sys.argv[1]}/t.safetensors")["at"]
made, copied = outcome(torch.zeros(0, dtype=torch.int64)), outcome(torch.empty_like(read))
print(f"made by torch: {made}; read by safetensors: {outcome(read)}; empty_like of it: {copied}")
PY
"$work/venv/bin/python" -W ignore "$work/empty.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
made by torch: saved; read by safetensors: RuntimeError numel: integer multiplication overflow; empty_like of it: saved
SEEN
