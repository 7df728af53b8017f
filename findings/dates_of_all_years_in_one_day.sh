#!/usr/bin/env bash
# fastparquet 2026.9.0 with pandas 3.1.1: a table of dates, written with times="int96" for Spark or Hive, is all of 21 January 1970.
#
#     fastparquet.write("rows.parquet", table, times="int96")           table.to_parquet("rows.parquet", engine="fastparquet", times="int96")
#
# INT96 is a day and the nanoseconds within it; it has no unit to be chosen. So the dates of the table are expected in it, whatever unit they have in
# memory, or an error for units that are not known.
#
# The numbers in memory are taken for nanoseconds. They were, when pandas knew no other unit; since pandas 3 to_datetime, date_range and Timestamp give
# microseconds, so that a pipeline that had been right writes all dates divided by 1000: 56 years become 20 days, the whole history of a table
# is one or two days, and months, weekdays, ages and a split by time are constants or noise. Seconds and milliseconds are worse. Each reader agrees
# with every other, fastparquet itself too, since it is the file that is wrong; the order of the rows in time is still right; missing dates stay missing.
# times="int64", which is the default, looks at the unit. Way out: that, or astype("datetime64[ns]") before.
#
# Output seen (x86_64, Python 3.11), 1 and 2 January and 1 July 2026; what is read of the first, and up to the last:
#   to_datetime, int64, datetime64[us]: fastparquet 2026-01-01, pyarrow 2026-01-01 to 2026-07-01, days 3, warnings 0
#   to_datetime, int96, datetime64[us]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
#   with a zone, int96, datetime64[us, UTC]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
#   int96, datetime64[s]: fastparquet 1970-01-01, pyarrow 1970-01-01 to 1970-01-01, days 1, warnings 0
#   int96, datetime64[ms]: fastparquet 1970-01-01, pyarrow 1970-01-01 to 1970-01-01, days 1, warnings 0
#   int96, datetime64[us]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
#   int96, datetime64[ns]: fastparquet 2026-01-01, pyarrow 2026-01-01 to 2026-07-01, days 3, warnings 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check fastparquet==2026.9.0 pandas==3.1.1 numpy==2.4.6 pyarrow==26.0.1 2> /dev/null
cat > "$work/dates.py" <<'PY'
import sys
import warnings

import fastparquet
import pandas as pd
import pyarrow.parquet as pq

FILE = f"{sys.argv[1]}/rows.parquet"
DAYS = ["2026-01-01", "2026-01-02", "2026-07-01"]


def told(name, table, **how):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastparquet.write(FILE, table, **how)
    caught = [warning for warning in caught if not issubclass(warning.category, (DeprecationWarning, ResourceWarning))]
    own = fastparquet.ParquetFile(FILE).to_pandas()["day"]
    other = pd.Series(pq.read_table(FILE)["day"].to_pylist())
    print(f"{name}, {table['day'].dtype}: fastparquet {own.iloc[0]:%Y-%m-%d}, pyarrow {other.iloc[0]:%Y-%m-%d}",
          f"to {other.iloc[2]:%Y-%m-%d}, days {other.dt.date.nunique()}, warnings {len(caught)}")


def days(unit):
    return pd.DataFrame({"day": pd.Series(pd.to_datetime(DAYS)).astype(f"datetime64[{unit}]")})


told("to_datetime, int64", pd.DataFrame({"day": pd.to_datetime(DAYS)}))
told("to_datetime, int96", pd.DataFrame({"day": pd.to_datetime(DAYS)}), times="int96")
told("with a zone, int96", pd.DataFrame({"day": pd.to_datetime(DAYS, utc=True)}), times="int96")
for unit in ("s", "ms", "us", "ns"):
    told("int96", days(unit), times="int96")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/dates.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
to_datetime, int64, datetime64[us]: fastparquet 2026-01-01, pyarrow 2026-01-01 to 2026-07-01, days 3, warnings 0
to_datetime, int96, datetime64[us]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
with a zone, int96, datetime64[us, UTC]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
int96, datetime64[s]: fastparquet 1970-01-01, pyarrow 1970-01-01 to 1970-01-01, days 1, warnings 0
int96, datetime64[ms]: fastparquet 1970-01-01, pyarrow 1970-01-01 to 1970-01-01, days 1, warnings 0
int96, datetime64[us]: fastparquet 1970-01-21, pyarrow 1970-01-21 to 1970-01-21, days 1, warnings 0
int96, datetime64[ns]: fastparquet 2026-01-01, pyarrow 2026-01-01 to 2026-07-01, days 3, warnings 0
SEEN
