#!/usr/bin/env bash
# river 0.26.1, utils.Rolling(stats.PearsonCorr, 50): one wrong reading, and all windows after it are wrong, for ever; the correlation of two sensors is 2.6, or -262.
#
# Features of a stream: mean, variance, correlation of the last 50 readings. A sensor that is read while it is plugged in gives 1e9, or the file has 1e20, the usual
# mark for "no value". That spoils the windows it is in, 50 of them. After that the window has other rows, and its figures are those of its rows.
#
# The window is kept by taking the row that leaves out of a running mean and sum of squares, in float64. Next to 1e9 squared the rows of then have no digits left, so what
# remains when it is taken out is chance, and stays: rows come and go beside it. After 2,850 more rows the variance is 2.7 where it is 1.0, from 1e12 on 0.08, and the
# correlation is no correlation any more; after 1e20 the mean is 251 for readings around 20. A model that learns from such features learns after the
# first glitch from noise of its own; a threshold on them never alarms, or always. Nothing warns. pandas and polars, which have the same figures over a window,
# are right as soon as the glitch has left. Way out: drop what cannot be before it reaches a window; or numpy over a deque of the last rows.
#
# Output seen (x86_64, Python 3.11), one reading of 3,000 replaced, the window of the last 50, which it left 2,849 rows before; off from numpy's of these 50:
#   20: river right; pandas right; polars right
#   1e+09: river off by over 0.2: variance, correlation; pandas right; polars right
#   1e+12: river off by over 0.2: variance, correlation, a correlation above 1 or below -1; pandas right; polars right
#   1e+20: river off by over 0.2: mean, variance, correlation, a correlation above 1 or below -1; pandas right; polars right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 river==0.26.1 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 polars==2.1.0 pyarrow==26.0.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import numpy as np
import pandas as pd
import polars as pl
from river import stats, utils

WINDOW, ROWS = 50, 3000
draw = np.random.default_rng(0)
signal = draw.normal(20, 1, ROWS)
other = signal + draw.normal(0, 1, ROWS)  # a correlation of 0.7 or so


def spoilt(glitch):
    values = signal.copy()
    values[100] = glitch
    return values


def by_river(values):
    """Mean, variance and correlation with the other sensor, of the last 50 rows after all 3,000 have gone through the window."""
    mean, variance, pearson = (utils.Rolling(kind, WINDOW) for kind in (stats.Mean, stats.Var, stats.PearsonCorr))
    for value, second in zip(values.tolist(), other.tolist(), strict=True):
        mean.update(value)
        variance.update(value)
        pearson.update(value, second)
    return mean.get(), variance.get(), pearson.get()


def exact(values):
    last, second = values[-WINDOW:], other[-WINDOW:]
    return last.mean(), last.var(ddof=1), np.corrcoef(last, second)[0, 1]


def by_pandas(values):
    window = pd.Series(values).rolling(WINDOW)
    return window.mean().iloc[-1], window.var().iloc[-1], window.corr(pd.Series(other)).iloc[-1]


def by_polars(values):
    frame = pl.DataFrame({"a": values, "b": other})
    row = frame.select(pl.col("a").rolling_mean(WINDOW).alias("m"), pl.col("a").rolling_var(WINDOW).alias("v"), pl.rolling_corr("a", "b", window_size=WINDOW).alias("c")).row(-1)
    return row


def said(found, right):
    return "right" if all(abs(a - b) < 0.005 for a, b in zip(found, right, strict=True)) else ", ".join(f"{one:.2f}" if abs(one) < 100 else f"{one:.0f}" for one in found)


for glitch in (20.0, 1e9, 1e12, 1e20):
    values = spoilt(glitch)
    right = exact(values)
    mean, variance, pearson = by_river(values)
    wrong = [name for name, one, two in zip(("mean", "variance", "correlation"), (mean, variance, pearson), right, strict=True) if abs(one - two) > 0.2]
    beyond = ", a correlation above 1 or below -1" if abs(pearson) > 1 else ""
    print(f"{glitch:g}: river {'off by over 0.2: ' + ', '.join(wrong) + beyond if wrong else 'right'}; pandas {said(by_pandas(values), right)}; polars {said(by_polars(values), right)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
20: river right; pandas right; polars right
1e+09: river off by over 0.2: variance, correlation; pandas right; polars right
1e+12: river off by over 0.2: variance, correlation, a correlation above 1 or below -1; pandas right; polars right
1e+20: river off by over 0.2: mean, variance, correlation, a correlation above 1 or below -1; pandas right; polars right
SEEN
