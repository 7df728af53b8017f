#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0), LoRA on a network with BatchNorm: saved with an error of 0.5, loaded with one of 2,000.
#
#   wanted      fine-tuning a network of convolutions (a ResNet, a U-Net, a speech encoder) by adapters: save_pretrained(folder) writes what was trained,
#               PeftModel.from_pretrained(base, folder) puts it back on the base
#   guess       what was frozen has not changed, what was trained is in the file; so the loaded model is the one that was validated
#   found       a frozen BatchNorm layer is not frozen. Its weight and bias are, its running mean and variance follow the new rows at each forward pass under
#               train(), as in any network. They belong to neither side: not to the base, which has the old ones, nor to the adapter, which saves parameters
#               of the adapter only. In the process that trained, evaluation uses the new ones, and is right; after the load it uses the old ones
#   depends on  how far the new rows are from those of the base: which is why one fine-tunes. Shapes, names and configuration fit, nothing is missing
#   way out     modules_to_save=["1"] with the layer's name, whose copy has its buffers in the file as well; or .eval() on these layers while training.
#               merge_and_unload() and a whole state_dict() are right, too. The page on troubles names batch norm among the
#               reasons for outputs that are not exactly the same, which sounds like the last digits
#
# Output seen (CPU, x86_64, Python 3.11)
#   as it comes: error below 2 where it was trained True; after loading the same False, above 100 True; a running mean in the file False
#   merged, whole state dict: the same True
#   the layer in modules_to_save: error below 2 where it was trained True; after loading the same True, above 100 False; a running mean in the file True
#   the layer in eval mode: error below 2 where it was trained True; after loading the same True, above 100 False; a running mean in the file False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 2> /dev/null
cat > "$work/adapter.py" <<'PY'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


torch.manual_seed(1)
x = 3 * torch.randn(256, 4) + 5
y = x[:, :1] ** 2 / 10


def error(model):
    with torch.no_grad():
        return float((model.eval()(x) - y).square().mean())


def trained(name, frozen=False, **options):
    model = get_peft_model(base(), LoraConfig(target_modules=["0", "3"], **options))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(400):
        model.train()
        if frozen:
            [module.eval() for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    model.save_pretrained(f"{sys.argv[1]}/{name}")
    again = PeftModel.from_pretrained(base(), f"{sys.argv[1]}/{name}")
    stored = any("running_mean" in key for key in load_file(f"{sys.argv[1]}/{name}/adapter_model.safetensors"))
    before, after = error(model), error(again)
    print(f"{name}: error below 2 where it was trained {before < 2}; after loading the same {abs(after - before) < 1e-3}, "
          f"above 100 {after > 100}; a running mean in the file {stored}")
    return model


model = trained("as it comes")
print("merged, whole state dict: the same", abs(error(model) - error(model.merge_and_unload())) < 1e-3)
trained("the layer in modules_to_save", modules_to_save=["1"])
trained("the layer in eval mode", frozen=True)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/adapter.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
as it comes: error below 2 where it was trained True; after loading the same False, above 100 True; a running mean in the file False
merged, whole state dict: the same True
the layer in modules_to_save: error below 2 where it was trained True; after loading the same True, above 100 False; a running mean in the file True
the layer in eval mode: error below 2 where it was trained True; after loading the same True, above 100 False; a running mean in the file False
SEEN
