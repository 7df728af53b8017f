"""A collate function of the caller's own, rows of different lengths, and data sets that draw random numbers."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

import handful
from handful.base.errors import HandfulError
from handful.base.keys import drawing

RNG = np.random.default_rng(0)
N = 48
ROWS = [torch.tensor(RNG.integers(1, 20, RNG.integers(1, 9))) for _ in range(N)]
LABELS = RNG.integers(0, 3, N)
FIT = {"batch": 12, "lr": 0.02, "until": "steps(8)", "quiet": True}


class Samples(Dataset):
    """Dicts, made by a function of the row."""

    def __init__(self, make, n=N):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.make(row)


class Mean(nn.Module):
    """The mean of the embeddings of the rows' own places."""

    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids, mask):
        some = mask[..., None].to(self.e.weight.dtype)
        return self.o((self.e(ids) * some).sum(1) / some.sum(1))


def sample(row):
    return {"ids": ROWS[row], "label": int(LABELS[row])}


def padded(samples):
    ids = nn.utils.rnn.pad_sequence([s["ids"] for s in samples], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(s["ids"])) for s in samples], batch_first=True) > 0
    return {"ids": ids, "mask": mask, "label": torch.tensor([s.get("label", 0) for s in samples])}


def made(model, seed=0):
    torch.manual_seed(seed)
    return model()


def plain_loop(batches, steps, model, part=padded):
    """What fit does, by torch alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for k in range(steps):
        batch = part([sample(int(row)) for row in batches[12 * k : 12 * k + 12]])
        optimizer.zero_grad()
        F.cross_entropy(model(batch["ids"], batch["mask"]), batch["label"]).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("micro_batch", [None, 5, 1])
def test_collated_samples_are_trained_as_a_plain_loop_does(micro_batch):
    model = made(Mean).double()
    how = FIT | {"optimizer": "sgd", "schedule": "constant", "l2": 0, "valid": None, "micro_batch": micro_batch}
    handful.fit(model, Samples(sample), collate=padded, target="label", **how)
    wanted = plain_loop(handful.Order(N, seed=0)[: 12 * 8], 8, made(Mean).double())
    for found, due in zip(model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-10, atol=1e-12)


def test_collate_is_resumed_evaluated_loaded_and_predicted(tmp_path):
    data, model, twin = Samples(sample), made(Mean), made(Mean)
    run = handful.fit(model, data, collate=padded, target="label", out=tmp_path / "whole", **FIT)

    def enough(event, info):
        return "enough" if event == "step" and info["step"] == 3 else None

    half = {"collate": padded, "target": "label", "out": tmp_path / "half", "callbacks": [enough], "save_every": 2}
    handful.fit(twin, data, **FIT, **half)
    handful.resume(tmp_path / "half", model=twin, train=data, collate=padded, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    with torch.no_grad():
        batch = padded([sample(row) for row in range(N)])
        output = model.eval()(batch["ids"], batch["mask"])
    assert run.evaluate(data)["loss"] == pytest.approx(float(F.cross_entropy(output, batch["label"])), rel=1e-6)
    assert run.predict(data).tolist() == output.argmax(1).tolist()
    unlabelled = Samples(lambda row: {"ids": ROWS[row]})
    loaded = handful.load(tmp_path / "whole", model=made(Mean, 1), collate=padded)
    assert loaded.predict(unlabelled).tolist() == output.argmax(1).tolist()
    source = handful.open(data, target="label", collate=padded)
    assert handful.load(tmp_path / "whole", model=made(Mean, 1)).predict(source).tolist() == output.argmax(1).tolist()
    with pytest.raises(HandfulError, match="put together as in training"):
        handful.load(tmp_path / "whole", model=made(Mean, 1)).predict({"ids": [[1, 2]], "mask": [[1, 1]]})


def test_collate_of_rows_that_are_not_a_dataset():
    seen = []

    def pairs(samples):
        seen.append(samples)
        return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])

    x, y = RNG.normal(size=(N, 4)).astype("float32"), LABELS
    one, other = made(lambda: nn.Linear(4, 3)), made(lambda: nn.Linear(4, 3))
    handful.fit(one, (x, y), collate=pairs, valid=(x[:9], y[:9]), **FIT)
    handful.fit(other, (x, y), valid=(x[:9], y[:9]), **FIT)
    assert torch.equal(one.weight, other.weight)
    assert all(torch.is_tensor(row[0]) and len(row) == 2 for row in seen[0])


class Graph:
    """A sample that only its own library knows, as torch_geometric.data.Data."""

    def __init__(self, ids, label):
        self.ids, self.label = ids, label


def test_a_list_of_objects_is_put_together_by_the_function_that_knows_them():
    def put(graphs):
        x = torch.stack([torch.bincount(g.ids, minlength=20).float() for g in graphs])
        return x, torch.tensor([g.label for g in graphs])

    graphs = [Graph(ids, int(label)) for ids, label in zip(ROWS, LABELS)]
    one, other = made(lambda: nn.Linear(20, 3)), made(lambda: nn.Linear(20, 3))
    run = handful.fit(one, graphs, collate=put, valid=None, **FIT)
    handful.fit(other, put(graphs), valid=None, **FIT)
    assert torch.equal(one.weight, other.weight)
    assert run.predict(graphs[:5]).tolist() == one(put(graphs[:5])[0]).argmax(1).tolist()
    with pytest.raises(HandfulError, match=r"'x' holds objects of Graph, .*, or collate="):
        handful.fit(one, graphs, **FIT)


class Graphs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, nodes, edges, graph):
        z = self.a(nodes).relu()
        z = z.index_add(0, edges[1], z[edges[0]])
        return self.o(torch.zeros(int(graph.max()) + 1, 4, dtype=z.dtype).index_add(0, graph, z))


def graph(row):
    rng = np.random.default_rng(row)
    k = int(rng.integers(2, 6))
    nodes, edges = rng.normal(size=(k, 2)).astype("float32"), rng.integers(0, k, (2, 2 * k))
    return {"nodes": torch.tensor(nodes), "edges": torch.tensor(edges), "y": int(LABELS[row])}


def merged(graphs):
    starts = np.cumsum([0, *(len(g["nodes"]) for g in graphs)])
    return {
        "nodes": torch.cat([g["nodes"] for g in graphs]),
        "edges": torch.cat([g["edges"] + int(start) for g, start in zip(graphs, starts)], 1),
        "graph": torch.arange(len(graphs)).repeat_interleave(torch.tensor(np.diff(starts))),
        "y": torch.tensor([g["y"] for g in graphs]),
    }


def test_what_holds_for_all_rows_of_a_batch_together_is_kept_whole():
    run = handful.fit(Graphs(), Samples(graph), collate=merged, target="y", micro_batch=3, **FIT)
    assert any("for all rows of a batch together, so a mini-batch is kept whole" in note for note in run.plan.notes)
    assert run.plan.choices["micro_batch"].value is None
    whole = run.model(*(merged([graph(row) for row in range(N)])[name] for name in ("nodes", "edges", "graph")))
    assert run.predict(Samples(graph)).tolist() == whole.argmax(1).tolist()
    measured = handful.fit(Graphs(), Samples(graph), collate=merged, target="y", until="epochs(2)", quiet=True)
    assert measured.plan.batch > 0  # with batch and rate open, its rows were taken apart: IndexError in the model


class Together:
    """Graphs merged into one object, whose parts are lists, as PyTorch Geometric's."""

    def __init__(self, graphs):
        self.graphs = graphs

    def __len__(self):
        return len(self.graphs)

    def __getitem__(self, part):
        return self.graphs[part]


class OfOne(Graphs):
    def forward(self, together):
        found = merged(together.graphs)
        return super().forward(found["nodes"], found["edges"], found["graph"])


def test_an_object_whose_parts_are_no_such_objects_is_kept_whole():
    def collate(graphs):
        return Together(graphs), torch.tensor([g["y"] for g in graphs])

    run = handful.fit(OfOne(), Samples(graph), collate=collate, micro_batch=3, **FIT)
    assert any("for all rows of a batch together, so a mini-batch is kept whole" in note for note in run.plan.notes)
    whole = run.model(Together([graph(row) for row in range(N)]))
    assert run.predict(Samples(graph)).tolist() == whole.argmax(1).tolist()


class Finder(nn.Module):
    """A dict of losses in training, boxes else, of lists of pictures and of dicts."""

    def __init__(self):
        super().__init__()
        self.b, self.k = nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, images, targets=None):
        z = torch.stack(list(images)).flatten(1)
        if not self.training:
            return [{"boxes": b[None], "labels": k.argmax()[None]} for b, k in zip(self.b(z), self.k(z))]
        boxes = F.l1_loss(self.b(z), torch.stack([t["boxes"][0] for t in targets]))
        return {"boxes": boxes, "labels": F.cross_entropy(self.k(z), torch.cat([t["labels"] for t in targets]))}


def picture(row):
    rng = np.random.default_rng(row)
    boxes = torch.tensor(rng.normal(size=(1, 4)).astype("float32"))
    return torch.tensor(rng.random((1, 4, 4), dtype="float32")), {"boxes": boxes, "labels": LABELS[row : row + 1]}


def listed(samples):
    images, targets = zip(*samples, strict=True)
    return images, [{k: torch.as_tensor(v) for k, v in target.items()} for target in targets]


def test_losses_in_a_dict_are_added_and_may_be_there_in_training_alone():
    model, twin = made(Finder), made(Finder)
    run = handful.fit(model, Samples(picture), collate=listed, loss="model", valid=None, **FIT)
    twin.train()
    with torch.no_grad():
        images, targets = listed([picture(int(row)) for row in handful.Order(N, seed=0)[:12]])
        first = sum(twin(images, targets).values())
    assert run.history[0]["train_loss"] == pytest.approx(float(first), rel=1e-5)
    assert len(run.outputs(Samples(picture))) == N
    with pytest.raises(HandfulError, match="in training mode alone, so that held-out rows cannot be scored"):
        handful.fit(made(Finder), Samples(picture), collate=listed, loss="model", **FIT)
    with pytest.raises(HandfulError, match="call the number that is its loss 'loss'"):
        handful.fit(Two(), torch.ones(N, 4), **FIT, loss="model")


def test_numbers_beside_the_loss_are_said():
    class Autoencoder(nn.Linear):
        def forward(self, x):
            error = (super().forward(x) - x).square().mean()
            return error, self.weight.square().sum(), 0.5 * error.detach()

    run = handful.fit(Autoencoder(4, 4), torch.ones(N, 4), **FIT, loss="model")
    assert [note for note in run.plan.notes if "what is not in it (1, 2?) is not minimised" in note]


class Two(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def forward(self, x):
        out = super().forward(x)
        return {"nll": out.mean(), "norm": out.norm(), "out": out}


def mixed(partner):
    def collate(samples):
        x, y = torch.utils.data.default_collate(samples)
        share = float(torch.distributions.Beta(0.4, 0.4).sample()) if partner == "drawn" else 0.7
        x2 = x.roll(1, 0) if partner != "flipped" else x.flip(0)
        return share * x + (1 - share) * x2, y

    return collate


def sorted_by_length(samples):
    samples = sorted(samples, key=lambda sample: -len(sample[0]))
    x = torch.nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)
    return x, torch.tensor([y for _, y in samples])


def noisy(samples):
    x, y = torch.utils.data.default_collate(samples)
    return x + torch.randn_like(x), y


def padded_before(samples):
    x = torch.nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True, padding_side="left")
    return x, torch.tensor([y for _, y in samples])


@pytest.mark.parametrize(
    ("collate", "says"),
    [(mixed("next"), True), (mixed("drawn"), True), (mixed("flipped"), True), (noisy, False), (padded_before, False)],
)
def test_rows_that_a_collate_function_mixes_are_said(collate, says):
    lengths = [4] * N if collate is not padded_before else [2 + k % 3 for k in range(N)]
    data = Samples(lambda row: (torch.arange(4.0)[: lengths[row]] + row, row % 2))
    model = nn.Linear(4, 2) if collate is not padded_before else Summed()
    run = handful.fit(model, data, collate=collate, **FIT)
    assert any("depends on the rows beside it, as with MixUp" in note for note in run.plan.notes) == says


class Summed(nn.Linear):
    def __init__(self):
        super().__init__(1, 2)

    def forward(self, x):
        return super().forward(x.sum(1, keepdim=True))


def test_a_collate_function_that_sorts_rows_is_refused():
    data = Samples(lambda row: (torch.ones(2 + row % 3), row % 2))
    with pytest.raises(HandfulError, match="puts rows in an order of its own, so that predictions would be those of"):
        handful.fit(Summed(), data, collate=sorted_by_length, **FIT)


def test_mistakes_of_a_collate_function_are_told():
    with pytest.raises(HandfulError, match="the collate function fails on 2 rows, 0, 5: KeyError: 'nothing'"):
        handful.open(Samples(sample), collate=lambda samples: samples[0]["nothing"])
    with pytest.raises(HandfulError, match="collate must be a function of a list of samples, not 'pad'"):
        handful.open(Samples(sample), collate="pad")


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.g, self.o = nn.Embedding(20, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x, lengths):
        pack = nn.utils.rnn.pack_padded_sequence(self.e(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.o(self.g(pack)[1][-1])


@pytest.mark.parametrize("make", [lambda row: {"x": ROWS[row], "y": int(LABELS[row])},
                                  lambda row: (ROWS[row], int(LABELS[row]))])  # fmt: skip
def test_a_model_that_takes_lengths_gets_them_and_not_the_target(make):
    run = handful.fit(made(Packed), Samples(make), **FIT)
    x = nn.utils.rnn.pad_sequence(ROWS, batch_first=True)
    with torch.no_grad():
        wanted = run.model(x, torch.tensor([len(row) for row in ROWS]))
    torch.testing.assert_close(run.outputs(Samples(make)), wanted)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Embedding(20, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.o(self.e(x))


def test_a_class_for_each_place_of_rows_of_different_lengths():
    tags = [row % 4 for row in ROWS]
    data = Samples(lambda row: {"x": ROWS[row], "tags": tags[row]})
    run = handful.fit(made(Tagger), data, target="tags", micro_batch=5, **FIT)
    assert run.plan.choices["loss"].value == "token_cross_entropy"
    with torch.no_grad():
        wanted = F.cross_entropy(run.model(torch.cat(ROWS)), torch.cat(tags))
        hits = (run.model(torch.cat(ROWS)).argmax(1) == torch.cat(tags)).double().mean()
    scores = run.evaluate(data)
    assert scores == {"loss": pytest.approx(float(wanted), rel=1e-5), "accuracy": pytest.approx(float(hits))}
    assert run.predict(data)[7].tolist() == run.model(ROWS[7]).argmax(1).tolist()


def masked(samples):
    """A third of the places hidden, at random, to be found again."""
    ids = nn.utils.rnn.pad_sequence([s["ids"] for s in samples], batch_first=True)
    hidden = (torch.rand(ids.shape) < 0.3) & (ids > 0)
    return {"x": ids.masked_fill(hidden, 0), "mask": ids > 0, "labels": ids.masked_fill(~hidden, -100)}


class Filler(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Embedding(20, 6), nn.Linear(6, 20)

    def forward(self, x, mask):
        return self.o(self.e(x)) * mask[..., None]


def test_hidden_ids_that_another_drawing_did_not_hide_are_no_mistake(tmp_path):
    data = Samples(lambda row: {"ids": ROWS[row].clamp(max=12)})
    run = handful.fit(made(Filler), data, collate=masked, target="labels", **FIT | {"until": "steps(40)"})
    assert not any("beside it" in note or "other outputs" in note for note in run.plan.notes)
    later = Samples(lambda row: {"ids": ROWS[row].clamp(min=14)})  # ids that training never had
    assert run.evaluate(later)["loss"] > run.evaluate(data)["loss"]
    generator = torch.Generator().manual_seed(0)

    def of_its_own(samples):
        return {"x": torch.rand(len(samples), 4, generator=generator), "y": torch.zeros(len(samples))}

    assert any("by what is not keyed" in note for note in handful.open(data, collate=of_its_own, target="y").notes)


def test_random_samples_are_drawn_by_the_place_of_the_mini_batch(tmp_path):
    data = Samples(lambda row: (torch.randn(4) + np.random.rand(), int(LABELS[row])))
    one, other = made(lambda: nn.Linear(4, 3)), made(lambda: nn.Linear(4, 3))
    torch.manual_seed(1)
    run = handful.fit(one, data, out=tmp_path / "run", **FIT)
    after = torch.rand(())
    torch.manual_seed(5)
    handful.fit(other, data, **FIT)
    assert torch.equal(one.weight, other.weight)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))
    assert any("draws random numbers" in note for note in run.plan.notes)
    first = next(row["train_loss"] for row in run.history if row.get("step") == 1)
    assert run.replay(1).loss == pytest.approx(first, rel=1e-6)


def test_drawing_is_a_function_of_its_address_and_leaves_no_trace():
    def some():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def seed_all():
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    seed_all()
    before = some()
    seed_all()
    with drawing("rows", 7):
        first = some()
    assert some() == before
    with drawing("rows", 7):
        assert some() == first
    with drawing("rows", 8):
        assert some() != first


def test_what_is_drawn_for_ready_made_models_is_drawn_anew_in_every_epoch():
    seen = []
    data = Samples(lambda row: (seen.append(row) or torch.randn(4), int(LABELS[row])))
    handful.fit("mlp", data, **FIT | {"until": "epochs(3)"}, valid=None)
    assert len(seen) > 3 * N  # nothing is kept from the first epoch


def test_a_generator_of_ready_batches_is_taken_apart():
    x, y = RNG.normal(size=(50, 4)).astype("float32"), np.arange(50) % 3
    batches = ((x[k : k + 8], y[k : k + 8]) for k in range(0, 50, 8))
    one, other = made(lambda: nn.Linear(4, 3)), made(lambda: nn.Linear(4, 3))
    run = handful.fit(one, batches, **FIT)
    handful.fit(other, (x, y), **FIT)
    assert torch.equal(one.weight, other.weight)
    assert any("gives batches of 8 rows, which are taken apart: 50 rows" in note for note in run.plan.notes)
    named = handful.open({"x": x[k : k + 8], "y": y[k : k + 8]} for k in range(0, 50, 8))
    assert named.take(range(50)).tensor("y").tolist() == y.tolist()
    rows = handful.open((x[k : k + 10], y[k : k + 10]) for k in range(0, 50, 10))
    assert len(rows) == 5
    assert any("is taken for a row; for a batch of rows give a DataLoader" in note for note in rows.notes)
    plain = handful.open((row, label) for row, label in zip(x, y))
    assert len(plain) == 50
    assert not any("taken" in note and "batch" in note for note in plain.notes)
