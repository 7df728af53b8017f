import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handful import models as model
from handful.base.errors import HandfulError
from handful.models.base import Dropout, Model
from handful.models.text import NGrams, rotary, rotate
from handful.optim import build as optimizer

TABLE = {"n_numbers": 3, "cardinalities": (4, 7)}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, top=20, seed=0):
    return torch.randint(1, top, shape, generator=torch.Generator().manual_seed(seed))


def categories(m=8):
    return torch.stack([torch.arange(m) % 4, torch.arange(m) % 7], 1)


ROWS = {"numbers": numbers(8, 3), "categories": categories()}

# id: (name, kind, shape, inputs, options, arguments of forward, shape of the output of 8 rows with 5 outputs)
CASES = {
    "linear": ("linear", "image", (1, 8, 8), {}, {}, {"x": numbers(8, 1, 8, 8)}, (8, 5)),
    "linear table": (
        "linear",
        "table",
        (5,),
        TABLE,
        {},
        {"numbers": numbers(8, 3), "categories": categories()},
        (8, 5),
    ),
    "mlp": ("mlp", "vector", (6,), {}, {"norm": "batch", "activation": "gelu"}, {"x": numbers(8, 6)}, (8, 5)),
    "mlp table": ("mlp", "table", (5,), TABLE, {}, ROWS, (8, 5)),
    "table": ("table", "table", (5,), TABLE, {"members": 1}, ROWS, (8, 5)),  # several: test_members.py
    "table x": ("table", "vector", (6,), {}, {"encoding": "plain", "members": 1}, {"x": numbers(8, 6)}, (8, 5)),
    "cnn 4": ("cnn", "image", (2, 4, 4), {}, {}, {"x": numbers(8, 2, 4, 4)}, (8, 5)),
    "cnn 8": ("cnn", "image", (1, 8, 8), {}, {"depth": 3}, {"x": numbers(8, 1, 8, 8)}, (8, 5)),
    "cnn 32": ("cnn", "image", (3, 32, 32), {}, {}, {"x": numbers(8, 3, 32, 32)}, (8, 5)),
    "cnn odd": ("cnn", "image", (3, 71, 45), {}, {}, {"x": numbers(8, 3, 71, 45)}, (8, 5)),
    "resnet": ("resnet", "image", (3, 16, 16), {}, {"widths": [8, 12, 16]}, {"x": numbers(8, 3, 16, 16)}, (8, 5)),
    "resnet 5": ("resnet", "image", (1, 5, 5), {}, {"widths": [8, 12], "depth": 2}, {"x": numbers(8, 5, 5)}, (8, 5)),
    "text": ("text", "text", (None,), {"vocabulary": 20}, {}, {"x": tokens(8, 9)}, (8, 5)),
    "text short": ("text", "text", (None,), {"vocabulary": 20}, {}, {"x": tokens(8, 1)}, (8, 5)),
    "text convolution": (
        *("text", "text", (None,), {"vocabulary": 20}),
        *({"encoder": "convolution"}, {"x": tokens(8, 9)}, (8, 5)),
    ),
    "text transformer": (
        *("text", "text", (None,), {"vocabulary": 20}),
        *({"encoder": "transformer"}, {"x": tokens(8, 9)}, (8, 5)),
    ),
    "text narrow": (
        *("text", "text", (None,), {"vocabulary": 20}),
        *({"ngrams": 0, "encoder": "convolution", "kernels": [2]}, {"x": tokens(8, 9)}, (8, 5)),
    ),
    "language": ("language", "language", (9,), {"vocabulary": 20}, {"width": 32}, {"x": tokens(8, 9)}, (8, 9, 20)),
    "audio": ("audio", "audio", (16, None), {"mels": 16}, {}, {"x": numbers(8, 16, 21)}, (8, 5)),
    "ctc 15": ("audio", "audio", (15, None), {}, {"ctc": True}, {"x": numbers(8, 1, 15, 6)}, (8, 3, 5)),
    "ctc": ("audio", "audio", (16, None), {"mels": 16}, {"ctc": True}, {"x": numbers(8, 16, 21)}, (8, 11, 5)),
}


def make(case, seed=0, **more):
    name, kind, shape, inputs, options, _, _ = CASES[case]
    return model.build(name, kind=kind, shape=shape, outputs=5, inputs=inputs, seed=seed, **{**options, **more})


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_output_has_the_stated_shape_and_gradients_reach_every_parameter(case):
    net, arguments = make(case, dropout=0.0), CASES[case][5]
    before = copy.deepcopy(arguments)
    out = net(**arguments)
    assert out.shape == CASES[case][6]
    assert torch.isfinite(out).all()
    # squared, with a target that no symmetry can cancel
    (out - torch.linspace(-1, 1, out.numel()).view_as(out)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name
    assert all(torch.equal(before[k], arguments[k]) for k in before)
    assert net.eval()(**{k: v[:0] for k, v in arguments.items()}).shape == (0, *CASES[case][6][1:])


def test_config_and_state_rebuild_the_same_model(case):
    net = make(case, seed=3)
    net(**CASES[case][5])  # moves BatchNorm's statistics
    again = model.from_config(json.loads(json.dumps(net.config)), seed=9)
    again.load_state_dict(net.state_dict())
    assert again.config == net.config
    assert type(again) is type(net)
    with torch.no_grad():
        assert torch.equal(again.eval()(**CASES[case][5]), net.eval()(**CASES[case][5]))


def test_seed_decides_the_weights_and_global_randomness_is_untouched(case):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = make(case, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    same, other = make(case, seed=1), make(case, seed=2)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_a_small_batch_is_learnt_by_heart(case):
    net, (*_, arguments, shape) = make(case, dropout=0.0), CASES[case]
    target = torch.arange(8 * int(np.prod(shape[1:-1]))).remainder(5)
    if case == "text short":
        target = arguments["x"][:, 0] % 5  # a single token is all there is to tell rows apart
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1 if case.startswith("linear") else 0.01)
    for _ in range(400):
        out = net(**arguments).flatten(0, -2)
        loss = F.cross_entropy(out, target)
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("case", ["text", "text short", "text narrow", "text convolution", "text transformer"])
def test_text_ignores_padding(case):
    net = make(case).eval()
    x = tokens(6, 9)
    x[0, 4:], x[1, 1:], x[2] = 0, 0, 0
    with torch.no_grad():
        short, long = net(x), net(F.pad(x, (0, 13)))
        alone = net(x[:1, :4])
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)
    torch.testing.assert_close(short[:1], alone, rtol=0, atol=1e-6)
    assert torch.isfinite(short).all()


def paired(x, vocabulary=20, buckets=1 << 14):
    """The n-grams of a row by a loop over Python integers: words, and pairs hashed with 64-bit arithmetic."""

    def wrapped(v):
        return (v + (1 << 63)) % (1 << 64) - (1 << 63)

    golden = 0x9E3779B97F4A7C15
    found = {int(i) for i in x if i}
    for a, b in zip(x.tolist(), x.tolist()[1:]):
        if a and b:
            run = wrapped((a ^ (a >> 29)) * golden + b)
            mixed = wrapped((run ^ (run >> 32)) * golden)
            found.add(vocabulary + (mixed >> 20) % buckets)
    return found


def test_ngrams_are_the_words_and_hashed_pairs_each_once():
    x = tokens(50, 12)
    x[0, 5], x[1] = 0, 3  # a token taken out: no pair across the gap; one word over and over
    path = NGrams(20, 3, longest=2, buckets=1 << 14)
    for row, ids in zip(x, path.ids(x)):
        assert sorted(ids[ids > 0].tolist()) == sorted(paired(row))
    assert len(paired(x[1])) == 2


def test_ngrams_of_a_pair_depend_on_its_order_and_spread_over_the_buckets():
    path = NGrams(500, 1, longest=2, buckets=1 << 18)
    a, b = torch.meshgrid(torch.arange(1, 500), torch.arange(1, 500), indexing="ij")
    pairs = path.ids(torch.stack([a.flatten(), b.flatten()], 1)).amax(1)
    n, k = len(pairs), 1 << 18
    distinct = k * (1 - (1 - 1 / k) ** n)  # of n balls thrown into k boxes
    assert len(pairs.unique()) == pytest.approx(distinct, rel=0.01)
    assert path.ids(torch.tensor([[4, 9]])).tolist() != path.ids(torch.tensor([[9, 4]])).tolist()
    three = NGrams(500, 1, longest=3, buckets=1 << 18).ids(torch.tensor([[4, 9, 2]]))
    assert (three > 0).sum() == 6


def test_the_wide_path_is_a_linear_model_of_rows_of_length_eight():
    path = NGrams(20, 3, longest=2, buckets=64).double()
    assert not path(tokens(4, 6)).any()  # it begins at 0
    torch.nn.init.normal_(path.weight.weight.data[1:])
    x = tokens(5, 7)
    for row, out in zip(x, path(x)):
        ids = sorted(paired(row, buckets=64))
        torch.testing.assert_close(out, 8 * path.weight.weight[ids].sum(0) / len(ids) ** 0.5)


def test_texts_with_many_classes_get_fewer_buckets():
    def buckets(outputs):
        net = model.build("text", kind="text", shape=(None,), outputs=outputs, inputs={"vocabulary": 20})
        return net.config["buckets"]

    assert [buckets(n) for n in (1, 2, 4, 10, 64, 100)] == [1 << k for k in (18, 18, 18, 16, 14, 14)]


@pytest.mark.parametrize("ctc", [False, True])
@pytest.mark.parametrize("frames", [16, 21, 23])
def test_audio_ignores_padding(ctc, frames):
    net = make("audio", ctc=ctc)
    net(numbers(8, 16, 40))  # statistics of BatchNorm that are not 0 and 1
    net.eval()
    x = numbers(5, 16, frames, seed=2)
    x[0, :, 9:] = 0
    with torch.no_grad():
        short, long, alone = net(x), net(F.pad(x, (0, 19))), net(x[:1, :, :9])
    if ctc:
        torch.testing.assert_close(short, long[:, : short.shape[1]], rtol=0, atol=1e-5)
        torch.testing.assert_close(short[:1, :5], alone, rtol=0, atol=1e-5)
        targets, lengths = torch.tensor([[1, 2]] * 5), torch.full((5,), 2)

        def loss(logits, n):
            return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, n, lengths, reduction="none")

        full = loss(long, torch.full((5,), long.shape[1]))
        cut = loss(long, torch.tensor([5] + [-(-frames // 2)] * 4))
        torch.testing.assert_close(full, cut, rtol=1e-5, atol=1e-5)
        assert (long[:, short.shape[1] :].argmax(-1) == 0).all()
    else:
        torch.testing.assert_close(short, long, rtol=0, atol=1e-5)
        torch.testing.assert_close(short[:1], alone, rtol=0, atol=1e-5)


def test_audio_of_silence_is_finite():
    assert torch.isfinite(make("audio")(torch.zeros(3, 16, 7))).all()


def test_language_cannot_see_the_future():
    net = make("language").eval()
    x = tokens(3, 12)
    changed = x.clone()
    changed[:, 7:] = (changed[:, 7:] + 3) % 20
    with torch.no_grad():
        a, b = net(x), net(changed)
    torch.testing.assert_close(a[:, :7], b[:, :7], rtol=0, atol=1e-5)
    assert (a[:, 7:] - b[:, 7:]).abs().amax(2).min() > 1e-3
    with torch.no_grad():  # but it does see the past, all of it
        first = x.clone()
        first[:, 0] = (first[:, 0] + 3) % 20
        assert (net(first)[:, 11] - a[:, 11]).abs().max() > 1e-6


def test_rotary_products_depend_on_the_distance_alone():
    cos, sin = rotary(40, 16, torch.device("cpu"))
    q, k = numbers(16).expand(40, 16), numbers(16, seed=1).expand(40, 16)
    products = rotate(q, cos, sin) @ rotate(k, cos, sin).T
    for distance in (-20, -3, 0, 1, 17):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
    assert (products[0, 1] - products[0, 5]).abs() > 1e-3
    pairs = torch.complex(*numbers(40, 16, seed=2).chunk(2, 1))  # equation 13: multiplication by e^(i t theta)
    turned = pairs * torch.polar(torch.ones(8), torch.arange(40.0)[:, None] * 10000.0 ** (-torch.arange(8) / 8))
    torch.testing.assert_close(
        rotate(torch.cat([pairs.real, pairs.imag], 1), cos, sin), torch.cat([turned.real, turned.imag], 1)
    )


def test_periodic_numbers_match_the_formula():
    net = make("table")
    x = numbers(4, 3)
    v = 2 * np.pi * net.periodic.frequency.detach().double().numpy() * x.double().numpy()[:, :, None]
    both = np.concatenate([np.cos(v), np.sin(v)], -1)
    weight, bias = (p.detach().double().numpy() for p in (net.periodic.linear.weight, net.periodic.linear.bias))
    expected = np.maximum(both @ weight.T + bias, 0)
    np.testing.assert_allclose(net.periodic(x).detach().numpy(), expected, atol=1e-5)


def test_linear_on_a_table_is_one_hot_regression():
    net, given = make("linear table"), CASES["linear table"][5]
    hot = np.zeros((8, 3 + 3 + 6))
    hot[:, :3] = given["numbers"].numpy()
    for row, (a, b) in enumerate(given["categories"].tolist()):
        if a:
            hot[row, 3 + a - 1] = 1
        if b:
            hot[row, 6 + b - 1] = 1
    expected = hot @ net.out.weight.detach().double().numpy().T + net.out.bias.detach().double().numpy()
    np.testing.assert_allclose(net(**given).detach().numpy(), expected, atol=1e-5)


def test_stochastic_depth_keeps_the_mean_and_is_off_in_evaluation():
    net = make("resnet", drop_path=0.5)
    block = [m for m in net.layers if hasattr(m, "drop")][-1]
    assert block.drop == 0.5
    x = numbers(1, 16, 4, 4).expand(4000, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    block.change.eval()
    with torch.no_grad(), model.seeded(0):
        out = block(x) - x
        kept = out.flatten(1).abs().amax(1) > 0
        change = block.eval()(x) - x
    assert 0.46 < kept.double().mean() < 0.54
    torch.testing.assert_close(out[kept], 2 * change[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "count"),
    [
        ("cnn", "image", (3, 32, 32), 54_298),
        ("cnn", "image", (1, 8, 8), 53_362),
        ("resnet", "image", (3, 32, 32), 1_973_186),
        ("audio", "audio", (64, None), 54_322),
    ],
)
def test_sizes_are_as_documented(name, kind, shape, count):
    net = model.build(name, kind=kind, shape=shape, outputs=10)
    assert sum(p.numel() for p in net.parameters()) == count
    assert f"{count:,}" in type(net).__doc__
    net = make("language")
    assert sum(p.numel() for p in net.parameters()) == 20 * 32 + 4 * (12 * 32**2 + 9 * 32) + 2 * 32
    ctc = model.build("audio", kind="audio", shape=(64, None), outputs=10, ctc=True)
    assert f"{sum(p.numel() for p in ctc.parameters()):,}" in type(ctc).__doc__


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_an_evaluation_is_the_mean_over_the_views_and_training_is_not(name):
    net = model.build(name, kind="image", shape=(3, 24, 32), outputs=5).eval()
    x = numbers(2, 3, 24, 32)
    edges = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    moved = [torch.tensor(edges[:, :, :24, :32]), torch.tensor(edges[:, :, 2:, 2:])]
    one, mirrored = net(x), net(x.flip(-1))
    assert not torch.allclose(one, mirrored, rtol=1e-3, atol=1e-4)
    shifted = sum(net(view) + net(view.flip(-1)) for view in moved)
    for views, expected in {2: (one + mirrored) / 2, 6: (one + mirrored) / 4 + shifted / 8}.items():
        several = model.from_config(net.config | {"views": views})
        several.load_state_dict(net.state_dict())
        torch.testing.assert_close(several.eval()(x), expected, rtol=1e-5, atol=1e-6)
        if views == 2:
            torch.testing.assert_close(several(x), several(x.flip(-1)), rtol=1e-5, atol=1e-6)
        same = model.from_config(net.config)
        same.load_state_dict(net.state_dict())
        torch.testing.assert_close(several.train()(x), same.train()(x))


def test_a_model_may_bring_its_own_decay_for_adamw_only():
    net = model.build("resnet", kind="image", shape=(3, 16, 16), outputs=5, widths=[8])
    assert optimizer.build("adamw", net).l2.value == 0.3
    assert optimizer.build("adamw", net, l2=0.02).l2.value == 0.02
    assert optimizer.build("sgd", net).l2.value == 0.0
    assert optimizer.build("adamw", torch.nn.Linear(2, 2)).l2.value == 0.01


def test_choices_can_be_built_and_run():
    cases = [
        ("image", (3, 32, 32), {}, "classification", "resnet"),
        ("image", (1, 8, 8), {}, "classification", "cnn"),
        ("image", (1, 2, 3), {}, "classification", "mlp"),
        ("table", (5,), TABLE, "regression", "table"),
        ("vector", (6,), {}, "regression", "mlp"),
        ("text", (None,), {"vocabulary": 20}, "classification", "text"),
        ("language", (9,), {"vocabulary": 20}, "language", "language"),
        ("audio", (16, None), {"mels": 16}, "sequence", "audio"),
    ]
    for kind, shape, inputs, task, expected in cases:
        name, options, reason = model.choose(kind, 5000, shape, inputs=inputs, task=task)
        assert name == expected
        assert reason
        net = model.build(name, kind=kind, shape=shape, outputs=5, inputs=inputs, **options)
        assert isinstance(net, Model)
    assert model.choose("image", 50_000, (3, 32, 32), device="cuda:0")[0] == "resnet"
    assert model.choose("table", 74, (5,), inputs=TABLE)[0] == "linear"
    assert model.choose("table", 75, (5,), inputs=TABLE)[0] == "table"
    assert model.choose("vector", 100, (5,))[0] == "linear"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: model.build("cnnn", kind="image", shape=(3, 8, 8), outputs=2), "Did you mean 'cnn'"),
        (lambda: model.build("cnn", kind="text", shape=(None,), outputs=2), "take text"),
        (lambda: model.build("cnn", kind="image", shape=(3, None, 8), outputs=2), "3 x any x 8"),
        (lambda: model.build("mlp", kind="vector", shape=(8,), outputs=2, hiden=[3]), "Did you mean 'hidden'"),
        (lambda: model.build("mlp", kind="vector", shape=(8,), outputs=2, norm="x"), "norm 'x'"),
        (lambda: model.build("mlp", kind="vector", shape=(8,), outputs=2, activation="rleu"), "Did you mean 'relu'"),
        (lambda: model.build("text", kind="text", shape=(None,), outputs=2), "'vocabulary'"),
        (lambda: model.from_config({"model": "text", "vocabulary": 9, "outputs": 2, "buckets": 100}), "power of two"),
        (
            lambda: model.build("text", kind="text", shape=(9,), outputs=2, inputs={"vocabulary": 9}, encoder="x"),
            "encoder",
        ),
        (lambda: model.build("language", kind="language", shape=(9,), outputs=9, width=30), "multiple"),
        (lambda: model.build("audio", kind="audio", shape=(4, None), outputs=2), "8 mel"),
        (lambda: model.build("table", kind="vector", shape=(4,), outputs=2, encoding="x"), "periodic"),
        (lambda: model.from_config({"features": 3}), "missing"),
        (lambda: model.choose("video", 3, ()), "video"),
    ],
)
def test_mistakes_are_said_in_one_sentence(wrong, words):
    with pytest.raises(HandfulError) as caught:
        wrong()
    assert words in str(caught.value)


def test_cnn_reaches_97_percent_of_the_digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((images - images.mean()) / images.std()).float().view(-1, 1, 8, 8)
    a, b = train_test_split(np.arange(len(x)), test_size=0.25, random_state=0, stratify=labels)
    y = torch.from_numpy(labels)
    net = model.build("cnn", kind="image", shape=(1, 8, 8), outputs=10)
    optimizer, generator = torch.optim.AdamW(net.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(5):
        for rows in torch.from_numpy(a)[torch.randperm(len(a), generator=generator)].split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (net.eval()(x[b]).argmax(1) == y[b]).double().mean()
    assert accuracy >= 0.97


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_dropout_leaves_out_so_many_numbers_divides_the_rest_and_depends_on_the_seed_alone(p):
    """Against torch's: the shares of what is left out, row by row and column by column, are those of fair draws."""
    x, layer = torch.full((400, 300), 2.0, requires_grad=True), Dropout(p)
    torch.manual_seed(3)
    y = layer(x)
    share = round(256 * (1 - p)) / 256
    kept = (y != 0).double()
    assert abs(share - (1 - p)) <= 1 / 512
    assert torch.equal(y, torch.where(kept > 0, torch.tensor(2.0) * (1 / share), 0.0))
    for along in (0, 1):  # chi-squared over its degrees of freedom, near 1 for independent draws
        n = kept.shape[along]
        spread = ((kept.mean(along) - share) ** 2 / (share * (1 - share) / n)).mean()
        assert 0.7 < spread < 1.3
    assert abs(float((kept[:, 1:] * kept[:, :-1]).mean()) - share**2) < 0.01
    y.sum().backward()
    assert torch.equal(x.grad * 2, y.detach())
    torch.manual_seed(3)
    assert torch.equal(layer(x), y)
    assert not torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_of_none_all_and_odd_sizes_is_torchs():
    ones = torch.ones(7)
    assert torch.equal(Dropout(0.0)(ones), ones)
    assert not Dropout(1.0)(ones).any()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)
    assert Dropout(0.5)(torch.ones(3, 5, dtype=torch.bfloat16)[:, ::2]).dtype == torch.bfloat16
