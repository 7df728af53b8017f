#!/usr/bin/env bash
# zarr 3.1.6 and tensorstore 0.1.86 against h5py 3.16.0: rows that were cut off an array are there again when it grows, as many as its chunks decide.
#
# A chunked array is a log of a run, a buffer of features, the predictions so far: extended ahead of the work, -1 (the fill value) where nothing has
# been written, and cut back where the run is set back to an earlier step. Who then goes on asks which rows are still -1, and computes those. HDF5 does
# as one expects: what was cut off is gone, and growing gives fill values.
#
# In a zarr store `resize` deletes chunks that lie outside, and the chunk at the edge stays as it is on the disk, with the rows that were cut off in it.
# Growing only changes the length, and these rows are read again: steps 7 and 8 of a run that is at 6 are "done", with the numbers of the run that was
# given up. With chunks of 4 it is up to 3 rows, with shards of 512 up to 511, and whether it is any depends on where the cut falls: a test with a round
# number passes. Appending after the cut writes over some, and leaves those behind. tensorstore does the same; so a file moved from HDF5 to zarr changes
# what a resize means. Reported for zarr in 2022 (issue 1017). The page says of resize that outside chunks are deleted. Way out: write the fill value
# over the rows before cutting them off.
#
# Output seen (x86_64, Python 3.11), rows 1 to 10 written, cut to 6, grown to 12; fill value -1:
#   h5py, chunks of 4:              1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
#   zarr, chunks of 4:              1 2 3 4 5 6 7 8 -1 -1 -1 -1
#   zarr, chunks of 4, format 2:    1 2 3 4 5 6 7 8 -1 -1 -1 -1
#   zarr, chunks of 4, shards of 8: 1 2 3 4 5 6 7 8 -1 -1 -1 -1
#   zarr, chunks of 6:              1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
#   tensorstore, chunks of 4:       1 2 3 4 5 6 7 8 -1 -1 -1 -1
#   zarr, cut to 5, 60 appended:    1 2 3 4 5 60 7 8 -1 -1 -1 -1
#   zarr, filled before the cut:    1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 zarr==3.1.6 h5py==3.16.0 tensorstore==0.1.86 2> /dev/null
cat > "$work/rows.py" <<'PY'
import sys

import h5py
import numpy as np
import tensorstore
import zarr

ROWS = np.arange(1, 11, dtype="float32")
FOLDER = sys.argv[1]


def shown(array):
    return " ".join(f"{value:g}" for value in np.asarray(array))


def cut_and_grown(array, to=6):
    array[:] = ROWS
    array.resize((to,))
    array.resize((12,))
    return shown(array[:])


def stored(name, **layout):
    return zarr.create_array(f"{FOLDER}/{name}.zarr", shape=(10,), dtype="float32", fill_value=-1, **layout)


with h5py.File(f"{FOLDER}/rows.h5", "w") as file:
    array = file.create_dataset("rows", shape=(10,), maxshape=(None,), chunks=(4,), dtype="float32", fillvalue=-1)
    print("h5py, chunks of 4:             ", cut_and_grown(array))
print("zarr, chunks of 4:             ", cut_and_grown(stored("plain", chunks=(4,))))
print("zarr, chunks of 4, format 2:   ", cut_and_grown(stored("old", chunks=(4,), zarr_format=2)))
print("zarr, chunks of 4, shards of 8:", cut_and_grown(stored("shards", chunks=(4,), shards=(8,))))
print("zarr, chunks of 6:             ", cut_and_grown(stored("round", chunks=(6,))))

metadata = {"shape": [10], "data_type": "float32", "fill_value": -1}
metadata["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [4]}}
place = {"driver": "file", "path": f"{FOLDER}/tensorstore.zarr/"}
array = tensorstore.open({"driver": "zarr3", "kvstore": place, "metadata": metadata}, create=True).result()
array.write(ROWS).result()
array = array.resize(exclusive_max=[6]).result().resize(exclusive_max=[12]).result()
print("tensorstore, chunks of 4:      ", shown(array.read().result()))

array = stored("appended", chunks=(4,))
array[:] = ROWS
array.resize((5,))
array.append(np.full(1, 60, dtype="float32"))
array.resize((12,))
print("zarr, cut to 5, 60 appended:   ", shown(array[:]))
array = stored("filled", chunks=(4,))
array[:] = ROWS
array[6:] = -1
array.resize((6,))
array.resize((12,))
print("zarr, filled before the cut:   ", shown(array[:]))
PY
"$work/venv/bin/python" -W ignore "$work/rows.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
h5py, chunks of 4:              1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
zarr, chunks of 4:              1 2 3 4 5 6 7 8 -1 -1 -1 -1
zarr, chunks of 4, format 2:    1 2 3 4 5 6 7 8 -1 -1 -1 -1
zarr, chunks of 4, shards of 8: 1 2 3 4 5 6 7 8 -1 -1 -1 -1
zarr, chunks of 6:              1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
tensorstore, chunks of 4:       1 2 3 4 5 6 7 8 -1 -1 -1 -1
zarr, cut to 5, 60 appended:    1 2 3 4 5 60 7 8 -1 -1 -1 -1
zarr, filled before the cut:    1 2 3 4 5 6 -1 -1 -1 -1 -1 -1
SEEN
