#!/usr/bin/env bash
# polars 2.1.0, `column.cast(pl.Categorical).to_physical()`: the codes of a column depend on which other frames the process holds at that moment.
#
# The usual way from words to the rows of an embedding table: code 0 for the first word that appears, 1 for the next new one, as pandas' factorize, Arrow's
# dictionary_encode and scikit-learn's OrdinalEncoder (by the alphabet) have it, each from the column alone. The same column gives the same codes: in the
# program that trains and in the one that serves, for the training file and, words being the same in the same order, for the test file.
#
# All Categorical columns of a process share one list of words (the page says "global categories", which was once the string cache, to be switched on).
# A code is the place in that list, which holds what all living frames have put there. So the column of towns has codes from 0 alone, others
# if somewhere a column with one of the words exists, and those from 0 again once that column has been collected, when the list starts anew. Two
# columns of one frame are numbered through, so `n_unique()` is no size for either table: rows of the table that no word has, and an IndexError
# for the second. Where two columns are cast in parallel in a lazy query, their numbers have been seen to differ from run to run of one script.
# A Parquet file keeps the words and not the codes. A model that was trained by one program then looks up other towns in the next one, without an
# error if the table is large enough. Way out: pl.Enum(words), or pl.Categorical("name") for each column, and the words saved with the model.
#
# Output seen (x86_64, Python 3.11):
#   towns alone: [0, 1, 0, 2]
#   towns and shops of one frame: [0, 1, 0, 2] [3, 3, 4, 1]; shops: n_unique 3 largest code 4
#   towns, after another column was read: [3, 2, 3, 0]
#   the other library's codes: pandas [0, 1, 0, 2] arrow [0, 1, 0, 2]
#   pl.Enum: [2, 0, 2, 1] pl.Categorical("towns"): [0, 1, 0, 2]
#   towns, after the other column is gone: [0, 1, 0, 2]
#   the shops, from the Parquet file of the first program: [0, 0, 1, 2]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 2> /dev/null
cat > "$work/codes.py" <<'PY'
import gc
import sys

import pandas as pd
import polars as pl
import pyarrow as pa

TOWNS = ["york", "bath", "york", "hull"]


def codes(words, kind=pl.Categorical):
    return pl.Series(words).cast(kind).to_physical().to_list()


def trained():
    """What a program finds that reads the towns first."""
    return codes(TOWNS)


if sys.argv[1] == "alone":
    print("towns alone:", trained())
    frame = pl.DataFrame({"town": TOWNS, "shop": ["tea", "tea", "books", "bath"]})
    for name in frame.columns:  # one after the other: at once, they may come out in another order
        frame = frame.with_columns(pl.col(name).cast(pl.Categorical))
    shops = frame["shop"]
    print("towns and shops of one frame:", frame["town"].to_physical().to_list(), shops.to_physical().to_list(), end="; ")
    print("shops: n_unique", shops.n_unique(), "largest code", shops.to_physical().max())
    frame.write_parquet(sys.argv[2])
else:
    other = pl.Series(["hull", "kent", "bath"]).cast(pl.Categorical)
    print("towns, after another column was read:", trained())
    print("the other library's codes: pandas", pd.factorize(pd.Series(TOWNS))[0].tolist(), end=" ")
    print("arrow", pa.array(TOWNS).dictionary_encode().indices.to_pylist())
    print("pl.Enum:", codes(TOWNS, pl.Enum(["bath", "hull", "york"])), 'pl.Categorical("towns"):', codes(TOWNS, pl.Categorical("towns")))
    del other
    gc.collect()
    print("towns, after the other column is gone:", trained())
    print("the shops, from the Parquet file of the first program:", pl.read_parquet(sys.argv[2], columns=["shop"])["shop"].to_physical().to_list())
PY
for program in alone second; do
  "$work/venv/bin/python" "$work/codes.py" "$program" "$work/frame.parquet"
done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
towns alone: [0, 1, 0, 2]
towns and shops of one frame: [0, 1, 0, 2] [3, 3, 4, 1]; shops: n_unique 3 largest code 4
towns, after another column was read: [3, 2, 3, 0]
the other library's codes: pandas [0, 1, 0, 2] arrow [0, 1, 0, 2]
pl.Enum: [2, 0, 2, 1] pl.Categorical("towns"): [0, 1, 0, 2]
towns, after the other column is gone: [0, 1, 0, 2]
the shops, from the Parquet file of the first program: [0, 0, 1, 2]
SEEN
