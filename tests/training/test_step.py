"""Promise 3: the batch is a contract, the micro-batch is plumbing. Reference: a plain float64 torch loop."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from handful.data.base import Batch
from handful.losses.asked import as_metrics
from handful.losses.loss import as_loss, cross_entropy, ctc, mae, mse, token_cross_entropy
from handful.optim.rates import add_l1
from handful.training.objective import LossSums, Objective
from handful.training.special.coupling import mode_coupling
from handful.training.special.exact import exact_gradient, gradient_that_fits
from handful.training.watch.evaluation import evaluate
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory, is_out_of_memory
from handful.training.watch.history import Window

DIGITS = load_digits()
X = torch.from_numpy(DIGITS.data / 16.0)
Y = torch.from_numpy(DIGITS.target)


def gradient(*args, **options):
    return exact_gradient(*args, **options).total


def mlp(outputs=10, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs)).to(dtype)


def batch_of(n, **columns):
    return Batch({"x": X[:n], "y": Y[:n], **columns}, np.arange(n))


def grads(model):
    return [p.grad.clone() for p in model.parameters()]


def assert_same(ours, reference, rtol=1e-10):
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("micro", [1, 3, 7, 64, 100, None])
@pytest.mark.parametrize("n", [64, 61, 1])
def test_gradient_does_not_depend_on_the_micro_batch(micro, n):
    model, reference = mlp(), mlp()
    loss = F.cross_entropy(reference(X[:n]), Y[:n])
    loss.backward()
    outcome = gradient(Objective(model, cross_entropy(), as_metrics("accuracy")), batch_of(n), micro)
    assert_same(grads(model), grads(reference))
    assert float(outcome.loss / outcome.weight) == pytest.approx(loss.item(), rel=1e-12)
    right = int((reference(X[:n]).argmax(1) == Y[:n]).sum())
    assert outcome.metrics["accuracy"].tolist() == [right, n]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_weighted_rows(n, micro, seed):
    weight = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 3, n))
    model, reference = mlp(), mlp()
    (F.cross_entropy(reference(X[:n]), Y[:n], reduction="none") * weight).sum().div(weight.sum()).backward()
    gradient(Objective(model, cross_entropy()), batch_of(n, weight=weight), micro)
    assert_same(grads(model), grads(reference))


@pytest.mark.parametrize("micro", [1, 3, None])
def test_masked_tokens_are_weighed_by_tokens_not_by_micro_batches(micro):
    """PRIOR-ART: transformers #34191. Loss sums 2 over weight 1 and 90 over weight 9 are a loss of 9.2, not 6.0."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 11, (6, 9)), torch.randint(0, 11, (6, 9))
    for i in range(6):
        y[i, i + 1 :] = -100  # row i counts i + 1 tokens
    make = lambda: torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11)).double()
    model = make()
    reference = make()
    reference.load_state_dict(model.state_dict())
    F.cross_entropy(reference(x).flatten(0, 1), y.flatten(), ignore_index=-100).backward()
    outcome = gradient(Objective(model, token_cross_entropy()), Batch({"x": x, "y": y}, np.arange(6)), micro)
    assert float(outcome.weight) == 21
    assert_same(grads(model), grads(reference))


def test_sums_not_means():
    parts = {0: (2.0, 1.0), 1: (90.0, 9.0)}

    def loss(output, target):
        total = sum(parts[int(t)][0] for t in target)
        return output.sum() * 0 + total, torch.tensor(float(sum(parts[int(t)][1] for t in target)))

    batch = Batch({"x": torch.ones(2, 1), "y": torch.tensor([0, 1])}, np.arange(2))
    outcome = gradient(Objective(torch.nn.Linear(1, 1), loss), batch, 1)
    assert float(outcome.loss / outcome.weight) == pytest.approx(9.2)


@pytest.mark.parametrize(
    "loss",
    [
        torch.nn.CrossEntropyLoss(),
        torch.nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10, dtype=torch.float64)),
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(ignore_index=3),
        torch.nn.MultiMarginLoss(),
        F.cross_entropy,
        lambda o, t: F.cross_entropy(o, t),
    ],
    ids=["plain", "class weights", "smoothing", "ignore", "margin", "function", "scalar lambda"],
)
def test_torch_losses_mean_what_they_mean_in_torch(loss):
    for micro in (None, 5):
        model, reference = mlp(), mlp()
        loss(reference(X[:32]), Y[:32]).backward()
        gradient(Objective(model, as_loss(loss)[0]), batch_of(32), micro)
        assert_same(grads(model), grads(reference))


@pytest.mark.parametrize(("ours", "theirs"), [(mse(), F.mse_loss), (mae(), F.l1_loss)])
def test_regression_losses(ours, theirs):
    y = X[:20, :3] + 0.1
    model, reference = mlp(3), mlp(3)
    theirs(reference(X[:20]), y).backward()
    gradient(Objective(model, ours), batch_of(20, y=y), 6)
    assert_same(grads(model), grads(reference))


def test_ctc_is_the_mean_over_rows_of_loss_per_label():
    torch.manual_seed(1)
    logits, target = torch.randn(3, 12, 5, dtype=torch.float64), torch.tensor([[1, 2, 0], [3, 0, 0], [4, 4, 1]])
    reference = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), target, [12] * 3, [2, 1, 3], reduction="mean")
    values = ctc()(logits, target)
    torch.testing.assert_close(values.mean(), reference)


def test_undivided_float32_gradient_has_the_bits_of_the_textbook_loop():
    model, reference = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    x = X[:48].float()
    F.cross_entropy(reference(x), Y[:48]).backward()
    gradient(Objective(model, cross_entropy()), batch_of(48, x=x))
    assert all(torch.equal(a, b) for a, b in zip(grads(model), grads(reference), strict=True))


def test_l1_adds_the_subgradient():
    model = mlp()
    gradient(Objective(model, cross_entropy()), batch_of(16))
    before = grads(model)
    add_l1(list(model.parameters()), 0.25)
    assert_same(grads(model), [g + 0.25 * p.detach().sign() for g, p in zip(before, model.parameters(), strict=True)])


def test_dropout_is_keyed_by_seed_and_step():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), mlp())
    seen = {}
    for key in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        gradient(Objective(model, cross_entropy()), batch_of(32), seed=key[0], step=key[1])
        now = torch.cat([g.flatten() for g in grads(model)])
        if key in seen:
            assert torch.equal(now, seen[key])
        else:
            assert all(not torch.equal(now, other) for other in seen.values())
        seen[key] = now


def test_non_finite_loss_names_step_and_rows_and_makes_no_update():
    model = mlp()
    x = X[:40].clone()
    x[[5, 17]] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"step 8, for rows 5, 17 .*column 'x' itself holds NaN"):
        gradient(Objective(model, cross_entropy()), batch_of(40, x=x), step=7)
    assert all(p.grad is None for p in model.parameters())


class Hungry(torch.nn.Module):
    """Runs out of memory for more than `limit` rows, after its running statistics have moved."""

    def __init__(self, limit):
        super().__init__()
        self.inner, self.limit = mlp(), limit
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.seen += len(x)
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("planted")
        return self.inner(x)


@pytest.mark.parametrize("limit", [1, 5, 30, 64])
def test_out_of_memory_halves_the_micro_batch_and_redoes_the_same_step(limit):
    model, reference = Hungry(limit), mlp()
    F.cross_entropy(reference(X[:64]), Y[:64]).backward()
    _, micro = gradient_that_fits(Objective(model, cross_entropy()), batch_of(64), None)
    assert_same(grads(model), grads(reference))
    assert (micro or 64) <= limit or limit == 64
    assert float(model.seen) == 64  # the failed tries left no trace


def test_not_even_one_row_fits():
    with pytest.raises(OutOfMemory, match="one row at a time does not fit"):
        gradient_that_fits(Objective(Hungry(0), cross_entropy()), batch_of(8), None)


def test_out_of_memory_is_told_by_type_not_by_words():
    """PRIOR-ART: composer #3397, an error text taken for out of memory."""
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert not is_out_of_memory(RuntimeError("the label says: CUDA out of memory"))


def test_coupling_is_noticed():
    assert mode_coupling(mlp()) is None
    assert "normalises over the rows" in mode_coupling(torch.nn.Sequential(torch.nn.BatchNorm1d(4)).train())
    assert mode_coupling(torch.nn.Sequential(torch.nn.BatchNorm1d(4)).eval()) is None


def test_evaluation_is_exact_over_rows_whatever_the_batches():
    model = mlp()
    with torch.no_grad():
        expected = float(F.cross_entropy(model(X), Y))
    for size in (1, 37, 500, 5000):
        batches = [
            Batch({"x": X[i : i + size], "y": Y[i : i + size]}, np.arange(len(X))[i : i + size])
            for i in range(0, len(X), size)
        ]
        scores = evaluate(Objective(model, cross_entropy(), as_metrics("accuracy, f1, auroc, top3")), batches)
        assert scores["loss"] == pytest.approx(expected, rel=1e-12)
        assert scores["accuracy"] == (model(X).argmax(1) == Y).double().mean().item()
    assert model.training


def test_metrics_that_count_see_many_mini_batches_at_once_and_give_the_same_sums():
    later, at_once = Window(), Window()
    objective = Objective(mlp(), cross_entropy(), as_metrics("accuracy, top3"))
    for k in range(150):
        batch = batch_of(1 + k % 7)
        sums = objective.sums(batch)
        assert sums.seen
        assert not sums.known
        later.added.append(sums.detached())
        output = objective.forward(batch).detach()
        found = {m.name: m.sums(output, batch.columns["y"], None) for m in objective.sum_metrics}
        at_once.added.append(LossSums(sums.loss.detach(), sums.weight, found))
        with torch.no_grad():
            objective.parameters[0].add_(0.1)  # what was seen is of the weights before
    found, expected = ({k: v.tolist() for k, v in window.whole().metrics.items()} for window in (later, at_once))
    assert found == expected
    assert later.scores(objective.sum_metrics) == at_once.scores(objective.sum_metrics)


@pytest.mark.parametrize("outputs", [1, 3])
def test_errors_of_many_mini_batches_are_the_same_to_the_bit_however_many_are_seen_at_once(outputs):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, outputs, dtype=torch.float64), torch.nn.Identity())
    objective = Objective(model, mse(), as_metrics("mae, rmse, r2"), scale=(torch.tensor(1e6), torch.tensor(3.0)))
    batches = []
    for k in range(100):
        x, y = (torch.randn(1 + 5 * k % 37, w, dtype=torch.float64, generator=generator) for w in (5, outputs))
        batches.append(Batch({"x": x, "y": y}, np.arange(len(x))))
    objective.centre(torch.cat([b.columns["y"] for b in batches]) * 3 + 1e6)
    added = [objective.sums(batch) for batch in batches]
    assert all(sums.seen and not sums.known for sums in added)
    windows = {at_once: Window() for at_once in (1, 3, 64, 100)}
    for at_once, window in windows.items():
        for k in range(0, 100, at_once):
            window.added += [sums.detached() for sums in added[k : k + at_once]]
            window.whole()
    found = [{k: v.tolist() for k, v in window.metrics.items()} for window in windows.values()]
    assert found == [found[0]] * 4
    with torch.no_grad():
        errors = [3 * (model(b.columns["x"]) - b.columns["y"]) for b in batches]
    rows = torch.cat(errors)
    scores = windows[3].scores(objective.sum_metrics)
    assert scores["train_mae"] == pytest.approx(math.fsum(rows.abs().mean(1).tolist()) / len(rows), rel=1e-9)
    true = 3 * torch.cat([b.columns["y"] for b in batches])
    spread = (true - true.mean(0)).square().sum(0)
    assert scores["train_r2"] == pytest.approx(float((1 - rows.square().sum(0) / spread).mean()), rel=1e-9)


def test_outputs_of_several_widths_are_measured_apart():
    class Widths(torch.nn.Module):
        def forward(self, x):
            return x * 1.0

    objective, window = Objective(Widths(), mse(), as_metrics("mae")), Window()
    for width in (2, 3, 3, 2):
        x = torch.ones(4, width)
        window.added.append(objective.sums(Batch({"x": x, "y": 0 * x}, np.arange(4))).detached())
    assert window.scores(objective.sum_metrics)["train_mae"] == 1.0


def test_an_output_that_is_a_view_is_measured_before_an_update_changes_it():
    class OfWeights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))

        def forward(self, x):
            return self.scores.expand(len(x), 3)

    objective, window = Objective(OfWeights(), cross_entropy(), as_metrics("accuracy")), Window()
    batch = Batch({"x": X[:4], "y": torch.zeros(4, dtype=torch.int64)}, torch.arange(4).numpy())
    window.added.append(objective.sums(batch).detached())
    with torch.no_grad():
        objective.parameters[0][1] = 9.0
    assert window.whole().metrics["accuracy"].tolist() == [4, 4]
