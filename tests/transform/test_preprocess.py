"""The pipeline: fitted on training rows only, equal to independent references, exact on disk, clear when misused."""

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

import handful
from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Dense
from handful.data.base import Column, Source
from handful.transform import Categories, CyclicTime, Impute, MinMax, Normalize, RobustAsinh, Standardize, Whiten
from handful.transform.auto import unscaled
from handful.transform.pipeline import Pipeline, fit_pipeline
from handful.transform.steps.features import in_proportion
from handful.transform.steps.numbers import ScaleImage
from handful.transform.steps.statistics import Moments, Sample, leave_one_out


class Rows(Source):
    """Columns given as tensors, or as lists of strings: text, or category where `categories` names them."""

    def __init__(self, target=None, categories=(), kinds=None, name="rows.csv", **values):
        self.name, self.target, self.notes, self.where = name, target, [], name
        self.columns, self.values = {}, {}
        for key, value in values.items():
            if key in categories:
                classes = tuple(dict.fromkeys(v for v in value if v))  # in order of appearance: not sorted
                codes = torch.tensor([classes.index(v) if v else -1 for v in value])
                self.columns[key], self.values[key] = Column("category", "str", (), classes), codes
            elif isinstance(value, list) and isinstance(value[0], str):
                self.columns[key], self.values[key] = Column("text", "str"), value
            else:
                value = torch.as_tensor(value)
                kind = (kinds or {}).get(key, "number" if value.dim() == 1 else "tensor")
                dtype = str(value.dtype).removeprefix("torch.")
                self.columns[key], self.values[key] = Column(kind, dtype, tuple(value.shape[1:])), value

    def __len__(self):
        return len(next(iter(self.values.values())))

    def read(self, rows):
        return {
            k: [v[i] for i in rows] if isinstance(v, list) else v[torch.from_numpy(rows)]
            for k, v in self.values.items()
        }


def draw(n, *shape, seed=0, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, *shape))


def chunked(x, sizes=(1, 7, 3, 50)):
    parts, start, i = [], 0, 0
    while start < len(x):
        parts.append(torch.as_tensor(x[start : start + sizes[i % len(sizes)]]))
        start, i = start + sizes[i % len(sizes)], i + 1
    return parts


def table(n=60, seed=0):
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, n)
    age[::9] = np.nan
    return Rows(
        target="label", categories=("city", "label"), age=age, income=rng.lognormal(10, 1, n),
        city=list(rng.choice(["rome", "bern", "oslo"], n)), label=list(rng.choice(["yes", "no"], n)),
    )  # fmt: skip


def same_tensors(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key]), key


def everything(source):
    return source.take(range(len(source)))


class TestSteps:
    @pytest.mark.parametrize("shift", [0.0, 1e3, 1e8])
    def test_standardize_is_sklearns_however_the_rows_arrive(self, shift):
        x = draw(200, 5, scale=2.0, shift=shift)
        x[:, 3] = 7.25
        ours = Standardize().fit(chunked(x))
        theirs = StandardScaler().fit(x)
        np.testing.assert_allclose(ours.mean.numpy(), theirs.mean_, rtol=1e-14)
        np.testing.assert_allclose(ours.std.numpy()[:3], theirs.scale_[:3], rtol=1e-7)
        np.testing.assert_allclose(ours(torch.tensor(x))[:, :3].numpy(), theirs.transform(x)[:, :3], atol=1e-6)
        assert ours.std[3] == 0
        assert (ours(torch.tensor(x + 1))[:, 3] == 0).all()
        assert "3" in ours.notes()[1]
        assert "'d'" in ours.notes(["a", "b", "c", "d", "e"])[1]

    def test_float32_keeps_digits_where_the_mean_is_large_against_the_spread(self):
        x = draw(500, 2, shift=20_000.0).astype(np.float32)
        ours = Standardize().fit([torch.tensor(x)])(torch.tensor(x))
        wide = x.astype(np.float64)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), (wide - wide.mean(0)) / wide.std(0), atol=1e-6)

    def test_integers_beyond_float32_are_standardised_exactly(self):
        x = torch.arange(100)[:, None] + 1_700_000_000
        expected = (np.arange(100) - 49.5) / np.arange(100).std()
        np.testing.assert_allclose(Standardize().fit([x])(x)[:, 0].numpy(), expected, atol=1e-6)

    def test_moments_skip_missing_values(self):
        x = draw(90, 4)
        x[np.random.default_rng(1).random(x.shape) < 0.3] = np.nan
        moments = Moments()
        for part in chunked(x):
            moments.update(part)
        np.testing.assert_allclose(moments.mean.numpy(), np.nanmean(x, 0), rtol=1e-12)
        np.testing.assert_allclose(moments.std.numpy(), np.nanstd(x, 0), rtol=1e-12)
        filled = Standardize(fill=True).fit(chunked(x))(torch.tensor(x))
        assert (filled[torch.isnan(torch.tensor(x))] == 0).all()
        assert torch.isnan(Standardize().fit(chunked(x))(torch.tensor(x))).sum() == np.isnan(x).sum()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
    @pytest.mark.parametrize("shape", [(), (2,)])
    def test_moments_are_float64_whatever_comes(self, dtype, shape):
        x = torch.tensor(draw(300, *shape, shift=1e6 if dtype != torch.bool else 0)).to(dtype)
        moments = Moments()
        for part in chunked(x):
            moments.update(part)
        wide = x.double().numpy()
        np.testing.assert_allclose(moments.mean.numpy(), wide.mean(0), rtol=1e-14)
        np.testing.assert_allclose(moments.std.numpy(), wide.std(0), rtol=1e-9)
        assert moments.low.dtype == moments.high.dtype == torch.float64
        np.testing.assert_array_equal(moments.low.numpy(), wide.min(0))

    def test_long_tails_are_drawn_in_and_all_else_is_left_alone(self):
        rng = np.random.default_rng(0)
        rows = {
            "normal": rng.normal(size=2000), "income": np.exp(rng.normal(10, 1, 2000)),
            "flag": rng.random(2000) < 0.01, "mostly zero": (rng.random(2000) < 0.1) * np.exp(rng.normal(0, 2, 2000)),
            "even": rng.random(2000),
        }  # fmt: skip
        x = np.stack(list(rows.values()), 1).astype(float)
        step = RobustAsinh().fit(chunked(x))
        assert step.long.tolist() == [1, 3]
        out = step(torch.tensor(x)).numpy()
        np.testing.assert_array_equal(out[:, [0, 2, 4]], x[:, [0, 2, 4]])
        low, median, high = np.quantile(x[:, 1], [0.25, 0.5, 0.75])
        np.testing.assert_allclose(out[:, 1], np.arcsinh((x[:, 1] - median) / ((high - low) / 1.349)), rtol=1e-12)
        assert (np.diff(out[np.argsort(x[:, 3]), 3]) >= 0).all()  # order is kept
        assert "'income', 'mostly zero'" in step.notes(list(rows))[0]
        gap = torch.tensor([[0.0, float("nan"), 0.0, 1.0, 0.0]])
        assert torch.isnan(step(gap)).tolist() == [[False, True, False, False, False]]
        beside = RobustAsinh(beside=True).fit(chunked(x))
        np.testing.assert_array_equal(beside(torch.tensor(x)).numpy(), np.hstack([x, out[:, [1, 3]]]))

    def test_a_single_layer_has_long_tails_as_they_are_beside_the_compressed(self, tmp_path):
        """Compressed alone, what is in proportion to a number of a long tail was out of its reach (R2 0.66 here)."""
        rng = np.random.default_rng(0)
        size = np.exp(rng.normal(3, 1.0, 320))
        data = {"size": size, "kind": rng.choice(["a", "b"], 320), "cost": 3 * size + rng.normal(0, 5, 320)}
        first, new = ({name: column[rows] for name, column in data.items()} for rows in (slice(160), slice(160, 320)))
        how = {"target": "cost", "until": "epochs(40)", "quiet": True, "threads": 1}
        run = handful.fit("linear", first, lr=0.05, batch=16, out=tmp_path / "run", **how)
        ridge = RidgeCV().fit(first["size"][:, None], first["cost"]).score(new["size"][:, None], new["cost"])
        assert run.evaluate(new)["r2"] > ridge - 0.05
        assert any("beside the numbers as they are" in note for note in run.pipeline.notes)
        np.testing.assert_array_equal(handful.load(tmp_path / "run").predict(new), run.predict(new))

    def test_parts_of_a_total_stay_as_they_are(self):
        """Compressed, the table model had R2 0.956 where ridge regression has 1; what the target goes along with by its
        logarithm is compressed as before."""
        rng = np.random.default_rng(0)
        size = np.exp(rng.normal(4, 2, 1000))
        parts = {k: size * rng.uniform(0.05, 0.3, 1000) for k in ("theft", "fraud", "arson")}
        data = parts | {"pay": np.exp(rng.normal(0, 1, 1000)), "place": rng.choice(["a", "b"], 1000)}
        data["total"] = sum(parts.values()) + 20 * np.log(data["pay"])
        first, new = ({name: column[rows] for name, column in data.items()} for rows in (slice(700), slice(700, 1000)))
        run = handful.fit("table", first, target="total", until="epochs(25)", seed=0, quiet=True, threads=1)
        said = [note for note in run.pipeline.notes if note.startswith("Long tails")]
        assert [note.rpartition(": ")[2] for note in said] == ["'pay'.", "'theft', 'fraud', 'arson'."]
        old, later = ((np.stack([*(d[k] for k in parts), np.log(d["pay"])], 1), d["total"]) for d in (first, new))
        assert RidgeCV().fit(*old).score(*later) > 0.99
        assert run.evaluate(new)["r2"] > 0.985

    def test_one_far_row_does_not_say_that_a_number_stays_as_it_is(self):
        rng = np.random.default_rng(0)
        x, y = rng.exponential(size=500) ** 2, rng.normal(size=500)
        x[7], y[7] = 1e4, 1e3
        assert np.corrcoef(x, y)[0, 1] > 0.99
        assert in_proportion(x[:, None], y) == ()
        assert in_proportion(np.stack([x, np.full(500, np.nan)], 1), 2 * x) == (0,)

    def test_a_number_that_leaves_half_as_much_as_it_is_stays_so(self):
        """Prices by the prices asked: 0.98 of the variance as they are and 0.90 compressed."""
        rng = np.random.default_rng(0)
        asked = np.exp(rng.normal(0, 0.6, 1000))
        paid = asked + 0.1 * rng.normal(size=1000)
        as_is, small = (np.corrcoef(x, paid)[0, 1] ** 2 for x in (asked, np.arcsinh((asked - 0.956) / 0.582)))
        assert 0 < as_is - small < 0.1
        assert in_proportion(asked[:, None], paid) == (0,)
        assert in_proportion(asked[:, None], np.log(asked)) == ()

    @pytest.mark.parametrize("shape", [(30, 4), (12, 40)])
    def test_the_penalty_by_rows_left_out_is_that_of_scikit_learn(self, shape):
        x, noise = draw(*shape), draw(shape[0], 2, seed=1)
        y = x[:, :2] * 2 + noise + 5
        penalty, missed = leave_one_out(torch.tensor(x), torch.tensor(y))
        grid = np.logspace(-3, 5, 33)
        errors = RidgeCV(grid, store_cv_results=True).fit(x, y).cv_results_.mean((0, 1))
        of_mean = -cross_val_score(DummyRegressor(), x, y, cv=LeaveOneOut(), scoring="neg_mean_squared_error").mean()
        assert penalty == pytest.approx(grid[np.argmin(errors)])
        assert missed == pytest.approx(min(errors) / of_mean, rel=1e-9)

    @pytest.mark.parametrize("doors", ["dict", "arrays"])
    def test_a_single_layer_on_few_rows_is_ridge_regression(self, doors, tmp_path):
        """Without a penalty 24 rows of 12 numbers were learned by heart; and 2 held-out rows decided that (R2 0.12)."""
        x, of = draw(30, 12), np.random.default_rng(2).normal(size=12)
        y = x @ of + draw(30, seed=3, scale=4.0)
        data = {f"x{k}": x[:, k] for k in range(12)} | {"y": y} if doors == "dict" else (x.astype(np.float32), y)
        target = {"target": "y"} if doors == "dict" else {}
        run = handful.fit("linear", data, valid=None, seed=0, quiet=True, threads=1, out=tmp_path / "run", **target)
        scaled = StandardScaler().fit_transform(x)
        ridge = RidgeCV(np.logspace(-3, 5, 33)).fit(scaled, y)
        np.testing.assert_allclose(run.model.out.weight.detach()[0] * y.std(), ridge.coef_, atol=0.02 * y.std())
        assert run.plan.choices["l2"].value == pytest.approx(2 * ridge.alpha_ / 30, rel=0.01)
        assert run.plan.choices["l2"].status == run.plan.choices["optimizer"].status == "found"
        again = handful.resume(tmp_path / "run", train=data, until="steps(2100)", quiet=True)
        assert again.plan.choices["l2"] == run.plan.choices["l2"]
        asked = handful.fit("linear", data, l2=0.5, until="steps(2)", batch=8, lr=0.01, quiet=True, **target)
        assert (asked.plan.choices["optimizer"].value, asked.plan.choices["l2"].value) == ("adamw", 0.5)

    def test_times_get_their_place_in_the_day_and_the_week_and_other_numbers_do_not(self):
        start = np.datetime64("2024-01-01T00:00", "s")  # a Monday
        when = (start + np.arange(0, 40 * 24) * np.timedelta64(3600, "s")).astype(np.int64).astype(float)
        x = np.stack([when, np.arange(len(when)) * 1e6, np.full(len(when), 1.7e9)], 1)
        step = CyclicTime().fit(chunked(x))
        assert step.times == ((0, "day"), (0, "week"))
        out = step(torch.tensor(x)).numpy()
        np.testing.assert_array_equal(out[:, :3], x)
        hour, day = np.arange(len(when)) % 24, np.arange(len(when)) / 24 % 7 + 4 - 1  # 1970 began on a Thursday
        np.testing.assert_allclose(out[:, 3], np.sin(2 * np.pi * hour / 24), atol=1e-6)
        np.testing.assert_allclose(out[:, 6], np.cos(2 * np.pi * (day + 1) / 7), atol=1e-6)
        said = "'when' holds seconds since 1970: the place in the day and the week is added."
        assert step.notes(["when", "b", "c"]) == [said]

    def test_a_run_learns_the_time_of_day_and_predicts_it_after_loading(self, tmp_path):
        when = np.datetime64("2024-01-01T00:00", "s") + np.arange(400) * np.timedelta64(3600, "s")
        load = np.sin(2 * np.pi * (np.arange(400) % 24) / 24)
        data = {"when": when, "load": load}
        run = handful.fit(
            "linear", data, target="load", batch=16, lr=0.05, until="epochs(10)", valid=40, out=tmp_path / "run",
            quiet=True, threads=1,
        )  # fmt: skip
        assert run.evaluate(data)["r2"] > 0.99
        np.testing.assert_array_equal(handful.load(tmp_path / "run").predict({"when": when}), run.predict(data))

    def test_a_table_of_a_ready_made_model_has_its_tails_drawn_in(self):
        x = np.exp(np.random.default_rng(0).normal(0, 2, 300))
        source = handful.open(
            {"x": x, "gap": np.where(np.arange(300) % 7, x, np.nan), "y": np.arange(300) % 2}, target="y"
        )
        found = fit_pipeline(source, own_model=False)(source.take(range(300)))["numbers"]
        expected = RobustAsinh().fit([x[:, None]])(torch.tensor(x[:, None]))
        expected = (expected - expected.mean()) / expected.std(correction=0)
        np.testing.assert_allclose(found[:, :1].numpy(), expected.numpy(), atol=1e-6)
        there = torch.tensor(np.arange(300) % 7 > 0)
        assert abs(found[there, 1].mean()) < 1e-6  # standardised by the values that are there

    def test_tails_and_times_are_of_the_values_that_are_there(self):
        x, there = np.random.default_rng(0).normal(size=1600), np.arange(1600) < 1000
        days = 86400.0 * (18_000 + np.arange(1600))  # the median of a thousand days is a noon
        gaps = {"x": np.where(there, x, np.nan), "day": np.where(there, days, np.nan), "y": x}
        notes = " ".join(fit_pipeline(handful.open(gaps, target="y"), own_model=False).notes)
        assert "the place in the week and the year is added" in notes
        assert "Long tails" not in notes

    def test_minmax_is_sklearns(self):
        x = draw(80, 3)
        ours, theirs = MinMax(-1.0, 2.0).fit(chunked(x)), MinMaxScaler((-1, 2)).fit(x)
        new = draw(10, 3, seed=5, scale=3)
        np.testing.assert_allclose(ours(torch.tensor(new)).numpy(), theirs.transform(new), atol=1e-12)
        flat = MinMax().fit([torch.ones(4, 1)])
        assert flat(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
        with pytest.raises(HandfulError, match="low < high"):
            MinMax(1.0, 1.0).fit([torch.ones(4, 1)])

    @pytest.mark.parametrize("norm", ["l1", "l2", "max"])
    def test_normalize_is_sklearns(self, norm):
        x = draw(30, 6)
        x[4] = 0
        np.testing.assert_allclose(Normalize(norm)(torch.tensor(x)).numpy(), Normalizer(norm).transform(x), atol=1e-14)

    def test_whiten_is_sklearns_pca(self):
        x = draw(150, 6) @ draw(6, 6, seed=3) + 10
        ours, theirs = Whiten(4).fit(chunked(x)), PCA(4, whiten=True, svd_solver="full").fit(x)
        np.testing.assert_allclose(ours(torch.tensor(x)).numpy(), theirs.transform(x), atol=1e-8)

    def test_whiten_sets_directions_without_variance_to_zero(self):
        x = draw(50, 2)
        x = torch.tensor(np.c_[x, x.sum(1)])
        out = Whiten().fit([x])(x)
        assert (out[:, 2] == 0).all()
        np.testing.assert_allclose(np.cov(out[:, :2].T.numpy()), np.eye(2), atol=1e-10)

    def test_impute_is_numpys_median_and_flags_only_what_was_missing_in_training(self):
        x = draw(101, 3)
        x[::4, 1] = np.nan
        step = Impute().fit(chunked(x))
        np.testing.assert_allclose(step.median.numpy(), np.nanmedian(x, 0), rtol=1e-15)
        new = torch.tensor([[np.nan, np.nan, 1.0], [0.0, 2.0, np.nan]])
        out = step(new)
        assert out.shape == (2, 4)
        assert not torch.isnan(out).any()
        assert out[:, 3].tolist() == [1.0, 0.0]

    def test_sample_is_all_rows_until_it_is_full_and_then_uniform(self):
        small = Sample(100)
        for part in np.array_split(np.arange(100), 7):
            small.update(part)
        assert sorted(small.take()) == list(range(100))
        counts, big = np.zeros(10), Sample(1000)
        for part in np.array_split(np.arange(20_000), 13):
            big.update(part)
        kept = big.take()
        assert len(set(kept.tolist())) == 1000
        counts = np.bincount(kept // 2000, minlength=10)
        assert ((counts - 100) ** 2 / 90).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001

    def test_categories_go_by_name(self):
        step = Categories().fit([["b", "a"], ["c", ""]])
        assert step.classes == ("a", "b", "c")
        assert step(["c", "zzz", "", "a"]).tolist() == [3, 0, 0, 1]
        assert step.recode(torch.tensor([0, 1, -1, 2]), ("c", "new", "a")).tolist() == [3, 0, 0, 1]

    def test_the_same_classes_are_not_looked_at_anew_for_every_batch(self):
        class Name(str):
            hashed = 0

            def __hash__(self):
                Name.hashed += 1
                return super().__hash__()

        classes, seen = tuple(map(Name, "cab")), []
        step = Categories().fit([["a", "b", "c"]])
        for _ in range(3):  # of 200,000 names, each time took longer than to learn from the batch
            assert step.recode(torch.tensor([0, 2]), classes).tolist() == [3, 2]
            seen.append(Name.hashed)
        assert seen[0] == seen[1] == seen[2] > 0

    def test_bytes_are_scaled_per_channel_exactly_as_in_numpy(self):
        x = torch.tensor(np.random.default_rng(0).integers(0, 256, (40, 3, 5, 7), dtype=np.uint8))
        step = ScaleImage().fit([x[:1], x[1:8], x[8:]])
        wide = x.numpy().astype(np.float64) / 255
        np.testing.assert_allclose(step.mean.numpy(), wide.mean((0, 2, 3)), rtol=1e-13)
        np.testing.assert_allclose(step.std.numpy(), wide.std((0, 2, 3)), rtol=1e-12)
        expected = (wide - wide.mean((0, 2, 3), keepdims=True)) / wide.std((0, 2, 3), keepdims=True)
        assert step(x).dtype == torch.float32
        np.testing.assert_allclose(step(x).numpy(), expected, atol=1e-6)
        blank = torch.zeros_like(x)
        assert (ScaleImage().fit([blank])(blank) == 0).all()

    def test_a_step_that_was_not_fitted_says_so(self):
        for step in (Standardize(), MinMax(), Impute(), Categories(), Whiten(), RobustAsinh(), CyclicTime()):
            with pytest.raises(HandfulError, match=rf"{type(step).__name__} is not fitted"):
                step(["a"] if isinstance(step, Categories) else torch.ones(2, 2))


class TestTable:
    def test_split_layout_against_numpy(self):
        source = table()
        pipeline = fit_pipeline(source, steps="standardize", own_model=False)
        out = pipeline(everything(source))
        raw = np.stack([source.values["age"].numpy(), source.values["income"].numpy()], 1)
        filled = np.where(np.isnan(raw), np.nanmedian(raw, 0), raw)
        expected = (filled - np.nanmean(raw, 0)) / np.nanstd(raw, 0)
        assert out.tensor("numbers").dtype == torch.float32
        np.testing.assert_allclose(out["numbers"][:, :2].numpy(), expected.clip(-10, 10), atol=1e-6)
        assert out["numbers"][:, 2].tolist() == np.isnan(raw[:, 0]).astype(float).tolist()
        names = [(*source.columns["city"].classes, "")[c] for c in source.values["city"]]
        assert out["categories"][:, 0].tolist() == [1 + ["bern", "oslo", "rome"].index(n) for n in names]
        assert pipeline.inputs.n_numbers == 3
        assert pipeline.inputs.cardinalities == (5,)  # missing, three names, never seen
        assert pipeline.classes == ("no", "yes")
        assert pipeline.task == "classification"
        assert pipeline.outputs == 2
        labels = [source.columns["label"].classes[c] for c in source.values["label"]]
        assert out["y"].tolist() == [["no", "yes"].index(n) for n in labels]

    def test_matrix_layout_for_an_own_model(self):
        source = table()
        split, matrix = (fit_pipeline(source, steps="standardize", own_model=own) for own in (False, True))
        a, b = split(everything(source)), matrix(everything(source))
        assert matrix.shape == (6,)
        assert torch.equal(b["x"][:, :3], a["numbers"])
        assert torch.equal(b["x"][:, 3:].argmax(1) + 1, a["categories"][:, 0])
        assert (b["x"][:, 3:].sum(1) == 1).all()

    def test_only_training_rows_are_looked_at(self):
        rows = np.arange(0, 60, 2)
        source, changed = table(), table()
        for value in (changed.values["age"], changed.values["income"]):
            value[1::2] = 1e9
        changed.columns["city"] = Column("category", "str", (), (*changed.columns["city"].classes, "atlantis"))
        changed.values["city"][1::2] = 3
        a, b = (fit_pipeline(s.subset(rows), own_model=False) for s in (source, changed))
        assert json.dumps(a.input.notes()) == json.dumps(b.input.notes())
        assert a.inputs == b.inputs
        da, db = a.to_dict(), b.to_dict()
        same_tensors(da[1], db[1])
        assert da[0]["pipeline"]["fields"]["input"] == db[0]["pipeline"]["fields"]["input"]

    def test_a_second_file_has_other_codes_and_new_names(self):
        source = table()
        pipeline = fit_pipeline(source, own_model=False)
        other = Rows(
            categories=("city",), name="new.csv", age=[30.0, 40.0], city=["mars", "oslo"],
            income=[1e4, 1e4], extra=[1, 2],
        )  # fmt: skip
        pipeline.check(other)  # with a column that training did not have
        out = pipeline.on(other)(everything(other))
        assert set(out.columns) == {"numbers", "categories"}
        assert out["categories"][:, 0].tolist() == [4, 2]  # the last id is that of names never seen
        as_text = Rows(name="new.csv", age=[30.0], city=["oslo"], income=[1e4])
        assert pipeline.on(as_text)(everything(as_text))["categories"].tolist() == [[2]]
        empty = Rows(name="new.csv", age=[30.0], city=[np.nan], income=[1e4])
        assert pipeline.on(empty)(everything(empty))["categories"].tolist() == [[0]]

    def test_missing_and_mistyped_columns_are_named(self):
        pipeline = fit_pipeline(table(), own_model=False)
        with pytest.raises(HandfulError, match=r"new.csv has no column 'income'.*Did you mean 'incomes'"):
            pipeline.check(Rows(name="new.csv", age=[1.0], incomes=[2.0], city=["oslo"]))
        words = Rows(name="new.csv", categories=("age",), age=["old"], income=[2.0], city=["oslo"])
        with pytest.raises(HandfulError, match=r"new.csv: column 'age' must be a number but is 'old' in row 0"):
            pipeline.on(words)(everything(words))
        with pytest.raises(HandfulError, match="no column 'label'"):
            pipeline.check(Rows(name="new.csv", age=[1.0], income=[2.0], city=["oslo"]), target=True)

    def test_identifiers_and_labels_in_words_are_left_out_with_a_note(self):
        n = 40
        source = Rows(
            target="y", PassengerId=torch.arange(n) + 7, person=[f"Person Number {i}" for i in range(n)],
            age=draw(n), customer_id=torch.arange(n) % 4, y=draw(n),
        )  # fmt: skip
        pipeline = fit_pipeline(source, own_model=False)
        assert pipeline.input.numbers == ("age", "customer_id")
        assert any("PassengerId" in note for note in pipeline.notes)
        assert any("person" in note and "Left out" in note for note in pipeline.notes)
        assert pipeline.check(source) != []

    def test_constant_wholly_missing_and_extreme_columns(self):
        n = 50
        nothing, extreme = torch.full((n,), torch.nan), torch.tensor(draw(n))
        source = Rows(target="y", a=torch.full((n,), 3), b=nothing, c=extreme, y=draw(n, seed=2))
        pipeline = fit_pipeline(source, own_model=False)
        batch = everything(source)
        batch.columns["c"][0] = 1e12
        out = pipeline(batch)["numbers"]
        assert (out[:, :2] == 0).all()
        assert out[0, 2] == 10
        assert any("'a'" in note and "Constant" in note for note in pipeline.notes)

    def test_an_infinite_value_is_named_by_its_row_in_the_users_file(self):
        source = table()
        source.values["income"][44] = torch.inf
        with pytest.raises(HandfulError, match=r"'income' of rows.csv holds an infinite value in row 44"):
            fit_pipeline(source.subset(np.arange(40, 60)), own_model=False)

    def test_one_in_other_data_is_named_too(self):
        """Held out, evaluated or predicted, where values far away are cut to ten deviations."""
        source = table()
        pipeline = fit_pipeline(source.subset(np.arange(40)), own_model=False)
        source.values["income"][44] = -torch.inf
        with pytest.raises(HandfulError, match=r"'income' of rows.csv holds an infinite value in row 44"):
            pipeline.on(source.subset(np.arange(40, 60)))(source.subset(np.arange(40, 60)).take(range(20)))
        with pytest.raises(HandfulError, match=r"'income' of rows.csv holds an infinite value in row 44"):
            pipeline.on(source)(source.take([3, 44]))

    @pytest.mark.parametrize(("steps", "reference"), [("minmax", MinMaxScaler()), ("standardize", StandardScaler())])
    def test_other_steps_for_the_numbers(self, steps, reference):
        x = draw(30, 2)
        source = Rows(target="y", a=x[:, 0], b=x[:, 1], y=draw(30, seed=3))
        out = fit_pipeline(source, steps=steps, own_model=False)(everything(source))["numbers"]
        np.testing.assert_allclose(out.numpy(), reference.fit_transform(x), atol=1e-6)
        chain = [Standardize(), Whiten()]
        out = fit_pipeline(source, steps=chain, own_model=False)(everything(source))["numbers"]
        np.testing.assert_allclose(np.cov(out.T.numpy()), np.eye(2), atol=1e-5)

    def test_unknown_steps(self):
        with pytest.raises(HandfulError, match="Did you mean 'standardize'"):
            fit_pipeline(table(), steps="standardise", own_model=False)
        with pytest.raises(HandfulError, match=r"steps of handful\.preprocess"):
            fit_pipeline(table(), steps=[lambda x: x], own_model=False)

    def test_no_input_columns(self):
        with pytest.raises(HandfulError, match="no input columns"):
            fit_pipeline(Rows(target="y", y=draw(10)), own_model=False)


class TestTensors:
    def test_an_own_model_gets_x_as_it_is(self):
        for x in (torch.tensor(draw(20, 3)), torch.randn(20, 3), torch.arange(60).view(20, 3)):
            source = Rows(target="y", x=x, y=torch.arange(20) % 4)
            pipeline = fit_pipeline(source, own_model=True)
            out = pipeline(everything(source))
            assert out["x"].dtype == x.dtype
            assert torch.equal(out["x"], x)
            assert out["y"].tolist() == [i % 4 for i in range(20)]
            assert "Your own model gets x as it is." in pipeline.notes

    def test_a_wild_scale_is_pointed_out(self):
        def notes(x):
            return fit_pipeline(Rows(target="y", x=x, y=torch.arange(20) % 4), own_model=True).notes

        assert not any("scale" in note for note in notes(torch.tensor(draw(20, 3))))
        assert any("preprocess='standardize'" in note for note in notes(torch.tensor(draw(20, 3, shift=1000))))

    def test_a_ready_made_model_gets_standardised_float32(self):
        x = draw(50, 4, shift=3, scale=9)
        x[5, 1] = np.nan
        source = Rows(target="y", x=x, y=draw(50))
        pipeline = fit_pipeline(source.subset(np.arange(40)), own_model=False)
        out = pipeline.on(source)(everything(source))["x"]
        expected = np.nan_to_num((x - np.nanmean(x[:40], 0)) / np.nanstd(x[:40], 0))
        assert out.dtype == torch.float32
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
        assert pipeline.inputs.kind == "vector"
        assert pipeline.shape == (4,)
        assert any("1 missing value" in note for note in pipeline.notes)

    def test_pictures(self):
        x = torch.tensor(np.random.default_rng(0).integers(0, 256, (30, 3, 8, 9), dtype=np.uint8))
        source = Rows(target="y", kinds={"x": "image"}, x=x, y=torch.arange(30) % 3)
        for own in (False, True):
            pipeline = fit_pipeline(source, own_model=own)
            out = pipeline(everything(source))["x"]
            np.testing.assert_allclose(out.mean((0, 2, 3)).numpy(), 0, atol=1e-6)
            assert "standardised per channel" in pipeline.notes[-1]
            np.testing.assert_allclose(out.std((0, 2, 3), correction=0).numpy(), 1, atol=1e-6)
            assert (pipeline.inputs.kind, pipeline.inputs.channels, pipeline.inputs.size) == ("image", 3, (8, 9))
        grey = Rows(target="y", x=x[:, 0], y=torch.arange(30) % 3)
        pipeline = fit_pipeline(grey, own_model=False)
        assert pipeline(everything(grey))["x"].shape == (30, 1, 8, 9)
        out = fit_pipeline(source, steps="minmax", own_model=True)(everything(source))["x"]
        assert torch.equal(out, x.float() / 255)
        floats = Rows(target="y", kinds={"x": "image"}, x=x.float(), y=torch.arange(30) % 3)
        assert torch.equal(fit_pipeline(floats, own_model=True)(everything(floats))["x"], x.float())
        assert abs(float(fit_pipeline(floats, own_model=False)(everything(floats))["x"].std()) - 1) < 1e-3

    def test_several_tensors_become_keyword_arguments_of_an_own_model(self):
        source = Rows(target="y", left=draw(9, 2), right=draw(9, 3), k=torch.arange(9), y=draw(9))
        pipeline = fit_pipeline(source, own_model=True)
        out = pipeline(everything(source))
        assert pipeline.inputs.names == ("left", "right", "k")
        assert set(out.columns) == {"left", "right", "k", "y"}
        numbers = fit_pipeline(source, own_model=False)(everything(source))["numbers"]
        assert numbers.shape == (9, 6)

    def test_none_passes_x_through(self):
        x = torch.tensor(draw(20, 3))
        source = Rows(target="y", x=x, y=draw(20))
        out = fit_pipeline(source, steps="none", own_model=False)(everything(source))["x"]
        assert torch.equal(out, x.float())

    def test_a_shape_that_differs_from_training(self):
        pipeline = fit_pipeline(Rows(target="y", x=draw(9, 2), y=draw(9)), own_model=True)
        with pytest.raises(HandfulError, match=r"shape \(3,\), but of \(2,\)"):
            pipeline.check(Rows(x=draw(9, 3)))


def target_of(y, own_model=False, categories=(), **kwargs):
    source = Rows(target="y", categories=categories, x=draw(len(y), 2), y=y)
    return fit_pipeline(source, own_model=own_model, **kwargs), source


class TestTarget:
    def test_integers_keep_their_values_and_dtype(self):
        pipeline, source = target_of(torch.tensor([7, -3, 7, 40] * 5, dtype=torch.int32))
        assert pipeline(everything(source))["y"].tolist() == [1, 0, 1, 2] * 5
        assert pipeline.classes == ("-3", "7", "40")
        decoded = pipeline.decode(torch.eye(3))
        assert decoded.tolist() == [-3, 7, 40]
        assert decoded.dtype == np.int32
        np.testing.assert_allclose(pipeline.probabilities(torch.zeros(2, 3)).numpy(), 1 / 3)

    def test_booleans_and_names(self):
        pipeline, source = target_of(torch.tensor([True, False] * 9))
        assert pipeline.decode(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [True, False]
        assert pipeline.decode(torch.tensor([2.0, -2.0])).tolist() == [True, False]
        assert pipeline.probabilities(torch.tensor([[0.0]])).tolist() == [[0.5, 0.5]]
        pipeline, source = target_of(["b", "a", "c"] * 7, categories=("y",))
        assert pipeline(everything(source))["y"].tolist() == [1, 0, 2] * 7
        assert pipeline.decode(torch.eye(3)).tolist() == ["a", "b", "c"]

    def test_a_class_unseen_in_training_is_named_with_its_row(self):
        source = Rows(target="y", categories=("y",), x=draw(10, 2), y=["cat", "dog"] * 4 + ["dog", "cow"])
        pipeline = fit_pipeline(source.subset(np.arange(8)), own_model=False)
        assert pipeline.classes == ("cat", "dog")
        valid = source.subset(np.array([8, 9]))
        with pytest.raises(HandfulError, match=r"'cow' in row 9 of rows.csv .*Known: cat, dog"):
            pipeline.on(valid)(everything(valid))
        assert "y" not in pipeline.on(valid, target=False)(everything(valid)).columns
        numbers = Rows(target="y", x=draw(10, 2), y=torch.tensor([0, 1] * 4 + [1, 5]))
        pipeline = fit_pipeline(numbers.subset(np.arange(8)), own_model=False)
        with pytest.raises(HandfulError, match="'5' in row 9"):
            pipeline.on(numbers)(everything(numbers))

    def test_an_own_models_class_ids_stay(self):
        y = torch.tensor([0, 1, 2, 4] * 6)
        pipeline, source = target_of(y, own_model=True)
        assert torch.equal(pipeline(everything(source))["y"], y)
        assert pipeline.outputs == 5
        batch = everything(source)
        batch.columns["y"] = torch.full_like(y, 9)
        with pytest.raises(HandfulError, match="'9' in row 0"):
            pipeline(batch)
        pipeline, source = target_of(torch.tensor([100, 300] * 6), own_model=True)
        assert pipeline(everything(source))["y"].tolist() == [0, 1] * 6
        assert any("become the ids" in note for note in pipeline.notes)

    def test_numbers_are_standardised_for_ready_made_models_and_come_back(self):
        y = draw(50, scale=30, shift=500)
        pipeline, source = target_of(y)
        assert pipeline.task == "regression"
        encoded = pipeline(everything(source))["y"]
        np.testing.assert_allclose(encoded.numpy(), (y - y.mean()) / y.std(), atol=1e-6)
        mean, std = pipeline.target_scale
        np.testing.assert_allclose([float(mean), float(std)], [y.mean(), y.std()], rtol=1e-12)
        np.testing.assert_allclose(pipeline.decode(encoded[:, None]), y, rtol=1e-6)
        two = draw(50, 2, shift=9)
        pipeline, source = target_of(two)
        assert pipeline.outputs == 2
        np.testing.assert_allclose(pipeline.decode(pipeline(everything(source))["y"]), two, rtol=1e-6)
        with pytest.raises(HandfulError, match="no probabilities"):
            pipeline.probabilities(encoded)

    def test_an_own_models_numbers_stay(self):
        for y in (draw(30), draw(30, 1), draw(30, 3), draw(30).astype(np.float32)):
            pipeline, source = target_of(y, own_model=True)
            out = pipeline(everything(source))["y"]
            assert pipeline.task == "regression"
            assert torch.equal(out, torch.tensor(y))
            assert out.dtype == torch.tensor(y).dtype
            assert pipeline.target_scale is None

    def test_one_column_of_numbers_keeps_its_shape(self):
        y = draw(30, 1, shift=5)
        pipeline, source = target_of(y)
        assert pipeline(everything(source))["y"].shape == (30, 1)
        assert pipeline.decode(torch.zeros(30, 1)).shape == (30, 1)

    def test_what_is_guessed_is_said_and_can_be_overruled(self):
        many = torch.arange(400) * 3
        pipeline, _ = target_of(many)
        assert pipeline.task == "regression"
        assert any("400 different whole numbers" in note for note in pipeline.notes)
        pipeline, _ = target_of(many, task="classification")
        assert pipeline.outputs == 400
        few = torch.tensor([1.0, 2.0, 4.0] * 20)
        pipeline, _ = target_of(few)
        assert pipeline.task == "regression"
        assert any("3 different whole numbers with decimals" in note for note in pipeline.notes)
        pipeline, _ = target_of(few, task="classification")
        assert pipeline.task == "classification"
        assert pipeline.decode(torch.eye(3)).tolist() == [1.0, 2.0, 4.0]
        pipeline, _ = target_of(few.long())
        assert any("taken for 3 classes, 1 to 4" in note for note in pipeline.notes)
        with pytest.raises(HandfulError, match="Did you mean 'regression'"):
            target_of(few, task="regresion")
        with pytest.raises(HandfulError, match="holds text such as 'a'"):
            target_of(["a", "b"] * 9, categories=("y",), task="regression")

    def test_several_labels(self):
        y = torch.tensor(np.random.default_rng(0).integers(0, 2, (30, 4)))
        for given, own in ((y.float(), False), (y.float(), True), (y, False), (y.bool(), True)):
            pipeline, source = target_of(given, own_model=own)
            assert pipeline.task == "multilabel"
            assert pipeline.outputs == 4
            out = pipeline(everything(source))["y"]
            assert out.is_floating_point()
            assert torch.equal(out, y.float())
            decoded = pipeline.decode(out * 2 - 1)
            assert decoded.dtype == given.numpy().dtype
            assert decoded.tolist() == given.tolist()

    def test_rows_of_tokens_for_an_own_model(self):
        y = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))
        pipeline, source = target_of(y, own_model=True)
        assert pipeline.task == "sequence"
        assert torch.equal(pipeline(everything(source))["y"], y)

    @pytest.mark.parametrize("own", [False, True])
    def test_one_class_only(self, own):
        with pytest.raises(HandfulError, match="only one class"):
            target_of(torch.ones(9, dtype=torch.int64), own_model=own)
        with pytest.raises(HandfulError, match=r"only one class in the training rows \('a'\)"):
            target_of(["a"] * 9, categories=("y",), own_model=own)

    def test_missing_targets_are_named_by_row(self):
        y = draw(20)
        y[13] = np.nan
        with pytest.raises(HandfulError, match=r"missing.* in row 13"):
            target_of(y)
        with pytest.raises(HandfulError, match="missing in row 5"):
            target_of(["a", "b"] * 2 + ["a", "", "b"], categories=("y",))
        pipeline, source = target_of(draw(20))
        batch = everything(source)
        batch.columns["y"][3] = torch.inf
        with pytest.raises(HandfulError, match=r"infinite in row 3"):
            pipeline(batch)

    def test_free_text_is_no_target(self):
        with pytest.raises(HandfulError, match="free text"):
            target_of([f"word {i}" for i in range(30)])

    def test_no_target(self):
        source = Rows(x=draw(9, 2))
        with pytest.raises(HandfulError, match="no target"):
            fit_pipeline(source, own_model=False)
        pipeline = fit_pipeline(source, own_model=True)
        assert pipeline.task is None
        assert set(pipeline(everything(source)).columns) == {"x"}

    def test_weights(self):
        source = Rows(target="y", x=draw(9, 2), w=torch.arange(9), y=draw(9))
        pipeline = fit_pipeline(source, own_model=True, weight="w")
        out = pipeline(everything(source))
        assert out["weight"].dtype == torch.float32
        assert out["weight"].tolist() == list(range(9))
        assert set(out.columns) == {"x", "y", "weight"}
        source.values["w"] = torch.tensor([1.0, 2, 3, -4, 5, 6, 7, 8, 9])
        with pytest.raises(HandfulError, match=r"'w' is -4.0 in row 3"):
            fit_pipeline(source, own_model=True, weight="w")
        with pytest.raises(HandfulError, match="no column 'ww'"):
            fit_pipeline(source, own_model=True, weight="ww")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("which", ["table", "vector", "text", "image", "steps"])
def test_a_pipeline_is_written_and_read_back_bit_for_bit(which, own):
    steps = "auto"
    if which == "table":
        source = table()
        source.columns["type"], source.values["type"] = source.columns.pop("city"), source.values.pop("city")
    elif which == "text":
        source = Rows(target="y", words=["some words here", "no, others"] * 9, y=torch.arange(18) % 2)
    elif which == "image":
        x = torch.tensor(np.random.default_rng(0).integers(0, 256, (18, 3, 4, 5), dtype=np.uint8))
        source = Rows(target="y", kinds={"x": "image"}, x=x, y=torch.arange(18) % 2)
    else:
        source = Rows(target="y", x=draw(30, 3) / 3, y=draw(30) / 7)
        steps = [Impute(), MinMax(-1, 1), Normalize("l1"), Whiten(2)] if which == "steps" else "standardize"
    pipeline = fit_pipeline(source, steps=steps, own_model=own)
    data, tensors = pipeline.to_dict()
    again = Pipeline.from_dict(json.loads(json.dumps(data)), tensors)
    data_again, tensors_again = again.to_dict()
    assert json.dumps(data_again) == json.dumps(data)
    same_tensors(tensors_again, tensors)
    a, b = pipeline(everything(source)), again(everything(source))
    same_tensors(a.columns, b.columns)
    assert (again.notes, again.classes, again.inputs, again.task) == (
        pipeline.notes, pipeline.classes, pipeline.inputs, pipeline.task
    )  # fmt: skip
    outputs = torch.randn(4, max(1, pipeline.outputs), generator=torch.Generator().manual_seed(1))
    assert again.decode(outputs).tolist() == pipeline.decode(outputs).tolist()


def test_a_damaged_or_foreign_pipeline_file_is_refused():
    data, tensors = fit_pipeline(table(), own_model=False).to_dict()
    with pytest.raises(HandfulError, match="format 99"):
        Pipeline.from_dict({**data, "format": 99}, tensors)
    with pytest.raises(HandfulError, match=r"unknown part 'Popen'"):
        Pipeline.from_dict({**data, "pipeline": {"type": "Popen", "fields": {}}}, tensors)
    with pytest.raises(HandfulError, match="damaged"):
        Pipeline.from_dict(data, {})


class TestCached:
    def test_rows_equal_the_pipelines_for_any_rows(self):
        source = table()
        pipeline = fit_pipeline(source.subset(np.arange(40)), own_model=False)
        cached = pipeline.cached(source)
        rows = [59, 0, 7, 7, 30]
        same_tensors(cached.take(rows).columns, pipeline.on(source)(source.take(rows)).columns)
        assert cached.target == "y"
        assert len(cached) == len(source)
        assert pipeline.cached(source, at_most=100) is None

    def test_text_is_padded_to_the_longest_of_the_rows_read(self):
        texts = ["some words", "", "some words and some words", "words"] * 300
        source = Rows(target="y", text=texts, y=torch.arange(1200) % 2)
        pipeline = fit_pipeline(source, own_model=False)
        cached = pipeline.cached(source)
        for rows in ([0, 3], [1], [1199, 1198, 1], []):
            same_tensors(cached.take(rows).columns, pipeline(source.take(rows)).columns)


def test_real_data_end_to_end():
    from handful.data.open import open as open_source

    for name, kind, task in (("iris", "table", "classification"), ("diabetes", "table", "regression")):
        source = open_source(name)
        pipeline = fit_pipeline(source.subset(np.arange(len(source))[::2]), own_model=False)
        assert (pipeline.inputs.kind, pipeline.task) == (kind, task)
        out = pipeline.on(source)(everything(source))
        x = torch.stack([source.take(range(len(source))).tensor(c) for c in source.inputs], 1).double().numpy()
        np.testing.assert_allclose(out["numbers"].numpy(), StandardScaler().fit(x[::2]).transform(x), atol=1e-5)
        again = open_source(x[:5].tolist(), columns=None)
        with pytest.raises(HandfulError, match="has no column"):
            pipeline.on(again)
        new = open_source({c: x[:5, i] for i, c in enumerate(source.inputs)}, columns=pipeline.schema)
        torch.testing.assert_close(pipeline.on(new)(everything(new))["numbers"], out["numbers"][:5])


def test_a_scale_that_makes_learning_slow_is_said_as_numpy_has_it():
    def told(values):
        kept = Dense(values, Column("tensor", str(values.dtype).removeprefix("torch."), tuple(values.shape[1:])))
        return unscaled(Arrays({"x": kept}), "x")

    x = np.random.default_rng(0).normal(1e3, 0.25, size=(300, 40)).astype(np.float32)
    said = told(x)
    assert f"mean {x.mean(dtype=float):.3g}, standard deviation {x.astype(float).std():.3g}" in said
    assert told(x - 1e3) is None
    assert told(1e200 * (x - 1e3).astype(float)) is not None
    x[7, 3] = np.nan
    assert "missing or infinite" in told(x)
    assert "missing or infinite" in told(torch.tensor([1.0, np.inf]))
    assert told(torch.arange(3)) is None
    wide = torch.tensor([[1e3, 2e3]], dtype=torch.float64)
    assert "mean 1.5e+03, standard deviation 500" in told(wide)
    assert wide.tolist() == [[1e3, 2e3]]  # the caller's numbers stay


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("which", ["inputs", "target"])
def test_numbers_whose_squares_float64_cannot_hold_are_refused(scale, which):
    x = np.random.default_rng(0).normal(size=(200, 3))
    data = (x * scale, x.sum(1)) if which == "inputs" else (x, x.sum(1) * scale)
    with pytest.raises(HandfulError, match="their squares are no float64"):
        handful.fit("mlp", data, until="steps(2)", quiet=True)


@pytest.mark.parametrize("scale", [1e140, 1e-140])
def test_numbers_far_from_one_are_learned_from_as_any(scale):
    x = np.random.default_rng(0).normal(size=(200, 3))
    plain, scaled = (Moments([torch.from_numpy(x) * by]).std / by for by in (1.0, scale))
    torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=0)


def test_missing_values_are_counted_where_no_feature_is_whole():
    x = torch.tensor([[1.0, float("nan")], [float("nan"), 2.0], [3.0, 4.0]])
    assert Standardize(fill=True).fit([x]).gaps == 2
