#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face) with torch 2.13.0: one missing value makes ids float32, in those mini-batches only that hold it; and
# float64 is never what comes out.
#
# A good guess: `with_format("torch")` gives the values of the stored type: `features` says int64 and float64, Arrow holds these,
# and a mini-batch of one column has the same dtype whichever rows the shuffle put into it.
# What happens, in the formats "torch" and "numpy" alike:
# - A float64 column comes as float32. Moments in seconds since 1970 are then 128 s apart: 1700000001.25 and 1700000002.5 are both
#   1700000000. Whole numbers that were stored as floats (ids, amounts in cents) lose their last digits above 2^24.
# - An int64 column with one None in it comes as int64 from a slice without that row, exactly, and from a slice with it as
#   float32: 16777216 and 16777217 are one id there. Under a DataLoader that shuffles, dtype and value of the same row change from
#   epoch to epoch, with the rows that it happens to lie beside; an embedding fails in some batches, a difference of ids is 0 in some.
# - A list of whole numbers with one None in it is float32 for its row, so in a slice all rows of the column are.
# None of it warns. "arrow", "pandas" and no format keep every digit; `with_format("torch", dtype=torch.float64)` does for all
# columns, whole numbers included.
#
# Output seen (CPU, x86_64, Python 3.11):
#   features: id int64, at float64
#   torch: rows 0-1 id torch.int64 [16777216, 16777217] at torch.float32 [1700000000.0, 1700000000.0]
#   torch: rows 0-3 id torch.float32 [16777216.0, 16777216.0, 5.0, nan] at torch.float32
#   numpy: rows 0-3 id float32 [16777216.0, 16777216.0, 5.0, nan] at float32
#   dtypes of id in the mini-batches of two epochs: [['float32', 'int64'], ['int64', 'float32']]
#   pandas: ids apart True, moments apart True
#   torch with dtype=torch.float64: ids apart True, moments apart True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 2> /dev/null
cat > "$work/gap.py" <<'PY'
import torch
from datasets import Dataset
from torch.utils.data import DataLoader


def apart(values):
    first, second, *_ = [float(v) for v in values]
    return first != second


if __name__ == "__main__":
    rows = Dataset.from_dict({"id": [16777216, 16777217, 5, None], "at": [1700000001.25, 1700000002.5, 0.5, 2.0]})
    print("features: " + ", ".join(f"{name} {kind.dtype}" for name, kind in rows.features.items()))
    as_torch, as_numpy = rows.with_format("torch"), rows.with_format("numpy")
    some, every, arrays = as_torch[:2], as_torch[:], as_numpy[:]
    print(f"torch: rows 0-1 id {some['id'].dtype} {some['id'].tolist()} at {some['at'].dtype} {some['at'].tolist()}")
    print(f"torch: rows 0-3 id {every['id'].dtype} {every['id'].tolist()} at {every['at'].dtype}")
    print(f"numpy: rows 0-3 id {arrays['id'].dtype} {arrays['id'].tolist()} at {arrays['at'].dtype}")
    loader = DataLoader(as_torch, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1))
    kinds = [[str(batch["id"].dtype)[6:] for batch in loader] for _ in range(2)]
    print(f"dtypes of id in the mini-batches of two epochs: {kinds}")
    frame = rows.with_format("pandas")[:]
    print(f"pandas: ids apart {apart(frame['id'])}, moments apart {apart(frame['at'])}")
    exact = rows.with_format("torch", dtype=torch.float64)[:]
    print(f"torch with dtype=torch.float64: ids apart {apart(exact['id'])}, moments apart {apart(exact['at'])}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W error::UserWarning "$work/gap.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
features: id int64, at float64
torch: rows 0-1 id torch.int64 [16777216, 16777217] at torch.float32 [1700000000.0, 1700000000.0]
torch: rows 0-3 id torch.float32 [16777216.0, 16777216.0, 5.0, nan] at torch.float32
numpy: rows 0-3 id float32 [16777216.0, 16777216.0, 5.0, nan] at float32
dtypes of id in the mini-batches of two epochs: [['float32', 'int64'], ['int64', 'float32']]
pandas: ids apart True, moments apart True
torch with dtype=torch.float64: ids apart True, moments apart True
SEEN
