"""How random the mini-batches of an order are, measured on the batches themselves.

Each measure has a standard error and a verdict. VIF, the variance inflation factor, is the one that a
training run feels: the variance of how many rows a batch takes from each tenth of storage (and from each
class), over what a uniform sample would have. A VIF above 1 makes gradients noisier than the batch size suggests;
one below 1 means that the "random" order is a pattern.
"""

from dataclasses import asdict, dataclass
from math import isnan, nan, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.batches.permutation import RowOrder, Rows

VIF_BAND = (0.97, 1.05)
LAGS = (1, 8, 64, 1024)  # rows apart in storage
BATCHES = 4096  # enough for a standard error of 0.007 on VIF
MOST_ROWS = 1 << 22  # looked at by default, whatever n is
TENTHS = 10


@dataclass(frozen=True)
class Measure:
    """One line of the table: `value` is ideally `ideal`; `error` is its standard error; a verdict in words.

    Verdicts: good; fail (outside the band by more than the error explains); could not tell; does not vary
    (a full batch); and for co-batch probability high or low: a block shuffle has it high by design.
    """

    measure: str
    value: float
    error: float
    ideal: str
    verdict: str


@dataclass(frozen=True)
class Quality:
    """The table: `rows`; `.to_rows()` as dicts; `quality["VIF"]` one line; `.passed` if no line failed."""

    order: str
    batch: int
    batches: int
    rows: tuple[Measure, ...]

    def to_rows(self) -> list[dict[str, str | float]]:
        return [asdict(row) for row in self.rows]

    @property
    def passed(self) -> bool:
        return all(row.verdict != "fail" for row in self.rows)

    def __getitem__(self, measure: str) -> Measure:
        return {row.measure: row for row in self.rows}[measure]

    def __str__(self) -> str:
        lines = [f"{self.order}, {self.batches:,} batches of {self.batch:,}"]
        lines.append(f"{'measure':<32}{'value':>9}{'error':>9}  {'ideal':<14}verdict")
        for row in self.rows:
            lines.append(f"{row.measure:<32}{row.value:>9.4f}{row.error:>9.4f}  {row.ideal:<14}{row.verdict}")
        return "\n".join(lines)


def measure(order: RowOrder, batch: int, epochs: int | None = None, labels: ArrayLike | None = None) -> Quality:
    """The quality of `order` for mini-batches of `batch` rows.

    Where an epoch has more than 2^22 / epochs rows, twenty stretches of it, spread evenly and with its very
    end, stand for the whole. Where it is looked at whole, batches are counted from its head in even epochs
    and from its tail in odd ones, so that the last rows count as well.

    Raises HandfulError when batch, epochs or labels do not fit the order.

    >>> from handful.batches.order import Order
    >>> print(Order(1000, shuffle="none").quality(50)["VIF"].verdict)
    fail
    """
    if not 1 <= batch <= order.n:
        raise HandfulError(f"a batch of {batch} does not fit an epoch of {order.n} rows: choose 1 to {order.n}")
    if epochs is None:
        epochs = max(2, -(-min(BATCHES * batch, MOST_ROWS) // order.n))
    elif epochs < 1:
        raise HandfulError(f"quality needs at least one epoch to look at, not {epochs}")
    ids, starts = _sample(order, batch, epochs)
    batches, places = _batches(ids, starts, batch)
    tenths = (batches * TENTHS) // order.n  # of storage
    mass = _mass(order, (np.arange(TENTHS + 1) * order.n + TENTHS - 1) // TENTHS)
    excess = _excess(tenths, mass, order)
    rows = [_vif("VIF", excess)]
    if labels is not None:
        codes, classes = _classes(order, labels)
        rows.append(_vif("VIF of classes", _excess(codes[batches], classes, order)))
    rows.append(_worst_tenth(excess, (places + batch // 2) * TENTHS // order.n))
    rows += [_co_batch(batches, lag, order) for lag in LAGS if lag < order.n]
    rows.append(_autocorrelation(ids))
    if epochs > 1:
        rows.append(_between_epochs(ids))
    return Quality(repr(order), batch, len(batches), tuple(rows))


def _sample(order: RowOrder, batch: int, epochs: int) -> tuple[Rows, Rows]:
    """Row ids [epochs, stretches, length], and where in the epoch each stretch starts [stretches]."""
    n, budget = order.n, MOST_ROWS // epochs
    if n <= budget:
        starts, length = np.zeros(1, dtype=np.int64), n
    else:
        stretches = max(2, min(2 * TENTHS, budget // batch))
        length = min(max(1, budget // stretches // batch), n // batch) * batch
        starts = np.linspace(0, n - length, stretches).astype(np.int64)
    ids = np.empty((epochs, len(starts), length), dtype=np.int64)
    for epoch in range(epochs):
        for i, start in enumerate(starts.tolist()):
            ids[epoch, i] = order[epoch * n + start : epoch * n + start + length]
    return ids, starts


def _batches(ids: Rows, starts: Rows, batch: int) -> tuple[Rows, Rows]:
    """The whole batches of every stretch, [batches, batch], and the place in the epoch where each starts."""
    length = ids.shape[2]
    rest = length % batch
    parts, places = [], []
    for epoch, stretches in enumerate(ids):
        first = rest if epoch % 2 else 0
        parts.append(stretches[:, first : first + length - rest].reshape(-1, batch))
        places.append((starts[:, None] + np.arange(first, first + length - rest, batch)).ravel())
    return np.concatenate(parts), np.concatenate(places)


def _mass(order: RowOrder, edges: Rows) -> NDArray[np.float64]:
    """The probability of a draw between each pair of neighbouring edges."""
    if order.weights is None:
        return np.diff(edges) / order.n
    sums = np.concatenate([[0.0], np.cumsum(order.weights / order.weights.sum())])
    return np.asarray(np.diff(sums[edges]))


def _classes(order: RowOrder, labels: ArrayLike) -> tuple[Rows, NDArray[np.float64]]:
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if codes.shape != (order.n,):
        raise HandfulError(f"labels have shape {list(codes.shape)} for {order.n} rows: give one label per row")
    share = np.bincount(codes, order.weights, len(names))
    return codes, share / share.sum()


def _excess(strata: Rows, mass: NDArray[np.float64], order: RowOrder) -> NDArray[np.float64]:
    """Squared deviation of a batch's counts from expectation, over its variance, mean over strata: [batches].

    The variance of a count is m p (1 - p) for independent draws, times (n - m) / (n - 1) where every row
    comes once an epoch (hypergeometric). NaN where nothing can vary: a full batch, or a single stratum.
    """
    number, m = strata.shape
    cells = strata + len(mass) * np.arange(number)[:, None]
    counts = np.bincount(cells.ravel(), minlength=number * len(mass)).reshape(number, len(mass))
    variance = m * mass * (1 - mass)
    if order.shuffle != "replacement":
        variance *= (order.n - m) / max(order.n - 1, 1)
    varies = variance > 1e-12
    if not varies.any():
        return np.full(number, nan)
    deviations = counts[:, varies] - m * mass[varies]
    return np.asarray((deviations**2 / variance[varies]).mean(1))


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard error; from 32 runs of neighbours, because neighbours may share a window."""
    groups = np.array([part.mean() for part in np.array_split(values, min(32, len(values)))])
    error = float(groups.std(ddof=1) / sqrt(len(groups))) if len(groups) > 1 else nan
    return float(values.mean()), error


def _vif(name: str, excess: NDArray[np.float64], z: float = 2.0, precise: float = 0.02) -> Measure:
    value, error = _mean(excess)
    low, high = VIF_BAND
    if isnan(value):
        verdict = "does not vary"
    elif value - z * error > high or value + z * error < low:
        verdict = "fail"
    elif error <= precise and low - (z - 2) * error <= value <= high + (z - 2) * error:
        verdict = "good"
    else:
        verdict = "could not tell"
    return Measure(name, value, error, f"{low} to {high}", verdict)


def _worst_tenth(excess: NDArray[np.float64], tenths: Rows) -> Measure:
    """VIF of the tenth of the epoch where it is farthest from 1; as worst of ten, judged at four errors."""
    values = {int(t): excess[tenths == t] for t in np.unique(tenths)}
    worst = max(values, key=lambda t: abs(values[t].mean() - 1))
    return _vif(f"VIF, worst tenth of epoch ({worst + 1})", values[worst], z=4.0, precise=0.1)


def _co_batch(batches: Rows, lag: int, order: RowOrder) -> Measure:
    """How often two rows `lag` apart in storage share a batch, over what it would be by chance."""
    batches = batches[:: -(-batches.size // (1 << 20))]
    number, m = batches.shape
    cells = np.sort((batches + order.n * np.arange(number)[:, None]).ravel())
    wanted = cells[cells % order.n + lag < order.n] + lag
    pairs = int((np.searchsorted(cells, wanted, side="right") - np.searchsorted(cells, wanted)).sum())
    if order.shuffle != "replacement":
        chance = (order.n - lag) / (order.n * (order.n - 1))
    elif order.weights is None:
        chance = (order.n - lag) / order.n**2
    else:
        p = order.weights / order.weights.sum()
        chance = float(p[:-lag] @ p[lag:])
    expected = number * m * (m - 1) * chance
    value, error = (pairs / expected, sqrt(max(pairs, 1)) / expected) if expected else (nan, nan)
    if value - 3 * error > 1.05:
        verdict = "high"
    elif not expected >= 100:
        verdict = "could not tell"
    elif abs(value - 1) <= max(0.05, 3 * error):
        verdict = "good"
    else:
        verdict = "low" if value < 1 else "high"
    return Measure(f"co-batch probability, lag {lag}", value, error, "1", verdict)


def _autocorrelation(ids: Rows) -> Measure:
    """The largest circular autocorrelation of row ids over all lags; chance exceeds the bound once in 1,000.

    By chance a lag's is about normal with variance 1 / length (Bartlett 1946); the bound is Bonferroni's.
    """
    length, number = ids.shape[2], ids.shape[0] * ids.shape[1]
    lags, name = (length - 1) // 2, "autocorrelation, largest"
    spread = float(ids.var())
    if lags < 32 or spread == 0:
        return Measure(name, nan, nan, "0", "could not tell")
    power, mean = np.zeros(length // 2 + 1), float(ids.mean())
    for stretch in ids.reshape(number, length):
        power += np.abs(np.fft.rfft(stretch - mean)) ** 2
    r = np.fft.irfft(power, length)[1 : lags + 1] / (number * length * spread)
    error = 1 / sqrt(number * length)
    bound = NormalDist().inv_cdf(1 - 0.001 / (2 * lags)) * error + 1 / length
    value = float(r[np.abs(r).argmax()])
    return Measure(name, value, error, f"within {bound:.4f}", "good" if abs(value) <= bound else "fail")


def _between_epochs(ids: Rows) -> Measure:
    """Correlation of the rows at the same places of successive epochs, against a 99.9% bound."""
    name, spread = "correlation of successive epochs", float(ids.var())
    mean = ids.mean()
    here, there = ids[:-1] - mean, ids[1:] - mean
    if here.size < 64 or spread == 0:
        return Measure(name, nan, nan, "0", "could not tell")
    value, error = float((here * there).mean() / spread), 1 / sqrt(here.size)
    bound = NormalDist().inv_cdf(1 - 0.001 / 2) * error
    return Measure(name, value, error, f"within {bound:.4f}", "good" if abs(value) <= bound else "fail")
