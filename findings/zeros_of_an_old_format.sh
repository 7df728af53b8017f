#!/usr/bin/env bash
# zarr 3.1.6 and xarray 2026.9.0: the zeros that were written to one file are NaN in what is read, and those of its twin are zeros.
#
# An array of counts, a mask, a rain gauge: many values are 0, and mean it. zarr fills what has not been written with its `fill_value`, which is 0 unless
# one says otherwise; a value of 0 that was written is a 0. zarr reads it so. A training loop that has names and dates on its axes reads by xarray.
#
# In a store of format 2 (most that exist) xarray takes zarr's fill value for the mark of a missing value: every 0 becomes NaN, and whole numbers
# become floats for it. In a store of format 3 it takes it for what it is. So the same lines write two stores that differ in one digit, and read two data
# sets: mean(), which leaves NaN out, of [0, 1, 0, 2, 3, 0] is 2 in one and 1 in the other; a dry day is a missing day; rows with "missing" values are
# dropped by the usual dropna(), which are those with a zero; a mask of 0 and 1 has only ones. Migrating a store from 2 to 3 changes the data, towards right.
# What xarray itself wrote is not concerned, in either format (it writes no such fill value), so that a round trip in a test passes.
# An option for it is documented, use_zarr_fill_value_as_mask, by default True for format 2 and False for 3; in format 2 it is not listened to: False
# gives the same NaN. Way out: mask_and_scale=False (then no missing value at all is marked), or fill_value=None when the store is written.
#
# Output seen (x86_64, Python 3.11), values [0 1 0 2 3 0] written by zarr
#   format 2, int32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [nan, 1.0, nan, 2.0, 3.0, nan] as float64, mean 2, days left by dropna 3
#   format 2, float32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [nan, 1.0, nan, 2.0, 3.0, nan] as float32, mean 2, days left by dropna 3
#   format 3, int32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [0.0, 1.0, 0.0, 2.0, 3.0, 0.0] as int32, mean 1, days left by dropna 6
#   format 3, float32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [0.0, 1.0, 0.0, 2.0, 3.0, 0.0] as float32, mean 1, days left by dropna 6
#   format 2, use_zarr_fill_value_as_mask=False: [nan, 1.0, nan, 2.0, 3.0, nan]
#   format 2, mask_and_scale=False: [0, 1, 0, 2, 3, 0]
#   format 2, written with fill_value=None: [0, 1, 0, 2, 3, 0]
#   format 2, written by xarray: [0, 1, 0, 2, 3, 0]
#   format 3, written by xarray: [0, 1, 0, 2, 3, 0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check zarr==3.1.6 xarray==2026.9.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import tempfile

import numpy as np
import xarray as xr
import zarr

VALUES = np.array([0, 1, 0, 2, 3, 0])
folder = tempfile.mkdtemp()


def write(version, name, dtype):
    group = zarr.open_group(f"{folder}/{name}", mode="w", zarr_format=version)
    axis = {"dimension_names": ("day",)} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["day"]}}
    group.create_array("rain", shape=(6,), chunks=(3,), dtype=dtype, **axis)[:] = VALUES
    return f"{folder}/{name}"


for version in (2, 3):
    for dtype in ("int32", "float32"):
        store = write(version, f"{dtype}-{version}", dtype)
        plain = zarr.open_group(store, mode="r")["rain"]
        read = xr.open_zarr(store, consolidated=False, chunks=None)["rain"]
        print(f"format {version}, {dtype}: fill value {float(plain.fill_value):g}; zarr reads {plain[:].astype(int).tolist()};",
              f"xarray reads {[float(v) for v in read.values]} as {read.dtype}, mean {float(read.mean()):g}, days left by dropna {len(read.dropna('day'))}")
store = f"{folder}/int32-2"
for option in ({"use_zarr_fill_value_as_mask": False}, {"mask_and_scale": False}):
    print(f"format 2, {next(iter(option))}=False:", xr.open_zarr(store, consolidated=False, chunks=None, **option)["rain"].values.tolist())
none = zarr.open_group(f"{folder}/none", mode="w", zarr_format=2)
none.create_array("rain", shape=(6,), chunks=(3,), dtype="int32", fill_value=None, attributes={"_ARRAY_DIMENSIONS": ["day"]})[:] = VALUES
print("format 2, written with fill_value=None:", xr.open_zarr(f"{folder}/none", consolidated=False, chunks=None)["rain"].values.tolist())
for version in (2, 3):
    xr.Dataset({"rain": ("day", VALUES.astype("int32"))}).to_zarr(f"{folder}/own-{version}", zarr_format=version, consolidated=False)
    print(f"format {version}, written by xarray:", xr.open_zarr(f"{folder}/own-{version}", consolidated=False, chunks=None)["rain"].values.tolist())
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
format 2, int32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [nan, 1.0, nan, 2.0, 3.0, nan] as float64, mean 2, days left by dropna 3
format 2, float32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [nan, 1.0, nan, 2.0, 3.0, nan] as float32, mean 2, days left by dropna 3
format 3, int32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [0.0, 1.0, 0.0, 2.0, 3.0, 0.0] as int32, mean 1, days left by dropna 6
format 3, float32: fill value 0; zarr reads [0, 1, 0, 2, 3, 0]; xarray reads [0.0, 1.0, 0.0, 2.0, 3.0, 0.0] as float32, mean 1, days left by dropna 6
format 2, use_zarr_fill_value_as_mask=False: [nan, 1.0, nan, 2.0, 3.0, nan]
format 2, mask_and_scale=False: [0, 1, 0, 2, 3, 0]
format 2, written with fill_value=None: [0, 1, 0, 2, 3, 0]
format 2, written by xarray: [0, 1, 0, 2, 3, 0]
format 3, written by xarray: [0, 1, 0, 2, 3, 0]
SEEN
