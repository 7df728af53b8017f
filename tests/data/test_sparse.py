"""Sparse matrices: read as the dense matrix is, kept sparse, trained on by the models of plain numbers."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import dump_svmlight_file

import handful
from handful.base.errors import HandfulError
from handful.transform import ScaleNonzero

RNG = np.random.default_rng(0)
WIDE = sp.csr_array(sp.random(200, 300, density=0.02, random_state=0))  # random_array is of scipy 1.12
LABELS = (np.asarray(WIDE[:, :150].sum(1)) > np.asarray(WIDE[:, 150:].sum(1))).astype(int).reshape(-1)
QUICK = {"lr": 0.05, "batch": 16, "until": "epochs(5)", "quiet": True}
FORMS = ["csr", "csc", "coo", "bsr", "dok", "lil", "dia"]


@pytest.mark.filterwarnings("ignore:Constructing a DIA")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
def test_every_form_gives_the_rows_of_the_dense_matrix(form, kind):
    source = handful.open((kind(WIDE).asformat(form), LABELS))
    rows = RNG.integers(0, 200, 50)
    assert source.take(rows).tensor("x").numpy().tolist() == WIDE.toarray()[rows].tolist()
    assert source.columns["x"].type == "sparse"
    assert source.stored["x"].values.size == WIDE.nnz  # the zeros are nowhere
    assert any("2.00% of the values are not 0" in note for note in source.notes)


def test_duplicates_are_added_and_the_caller_s_matrix_stays_as_it_was():
    twice = sp.coo_array(([1.0, 2.0, 5.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 3))
    unsorted = sp.csr_array((np.array([1.0, 2.0]), np.array([2, 0]), np.array([0, 2, 2])), shape=(2, 3))
    for matrix in (twice, unsorted):
        before = matrix.copy()
        assert handful.open(matrix).take([1, 0]).tensor("x").numpy().tolist() == matrix.toarray()[[1, 0]].tolist()
        assert (before.data == matrix.data).all()


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint16", "bool", "uint64"])
def test_types_are_those_of_a_dense_array(dtype):
    matrix = sp.csr_array(np.array([[0, 1, 0], [1, 0, 1]], dtype=dtype))
    dense = handful.open(matrix.toarray()).take([0, 1]).tensor("x")
    found = handful.open(matrix).take([0, 1]).tensor("x")
    assert found.dtype == dense.dtype
    assert torch.equal(found, dense)


@pytest.mark.parametrize("model", ["linear", "mlp(hidden=[8])", "table"])
def test_a_model_of_sparse_rows_is_the_model_of_dense_ones_to_the_bit(model):
    scaled = {"preprocess": "none", **QUICK}
    sparse, dense = (handful.fit(model, (x, LABELS), **scaled) for x in (WIDE, WIDE.toarray()))
    for ours, theirs in zip(sparse.model.parameters(), dense.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    both = (np.asarray(sparse.predict({"x": x})) for x in (WIDE, WIDE.toarray()))
    assert np.array_equal(*both)


def test_zeros_stay_zeros_and_the_rest_has_one_size():
    run = handful.fit("linear", (WIDE, LABELS), **QUICK | {"valid": None, "until": "epochs(30)"})
    x = run.pipeline(run.open(WIDE, need_target=False).source.take(range(200))).tensor("x").numpy()
    assert ((x == 0) == (WIDE.toarray() == 0)).all()
    size = np.sqrt((WIDE.toarray() ** 2).sum(0) / np.maximum(1, (WIDE.toarray() != 0).sum(0)))
    assert 0.5 < np.median(x[x != 0]) < 2
    assert np.median(size[size > 0]) > 0
    one = ScaleNonzero().fit([torch.tensor([[0.0, 2.0, 3000.0], [2.0, 0.0, 4000.0]])])
    assert one.size.tolist() == [2.0, 2.0, np.sqrt(12.5e6)]
    assert run.evaluate((WIDE, LABELS))["accuracy"] > 0.8


def test_files_keep_it_sparse(tmp_path):
    sp.save_npz(tmp_path / "a.npz", WIDE)
    dump_svmlight_file(WIDE, LABELS, str(tmp_path / "b.svm"))
    for name in ("a.npz", "b.svm"):
        source = handful.open(tmp_path / name)
        assert source.columns["x"].type == "sparse"
        np.testing.assert_allclose(source.take(range(200)).tensor("x").numpy(), WIDE.toarray())
    sp.save_npz(tmp_path / "c.npz", WIDE.tocoo())
    with pytest.raises(HandfulError, match=r"of the form 'coo': write it with \.tocsr"):
        handful.open(tmp_path / "c.npz")


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_a_sparse_target_is_written_out_and_sparse_tensors_are_read():
    y = sp.csr_array(np.stack([LABELS, 1 - LABELS], 1))
    source = handful.open((WIDE, y), target="y")
    assert source.take([3]).tensor("y").tolist() == y.toarray()[[3]].tolist()
    for layout in (torch.sparse_coo, torch.sparse_csr):
        tensor = torch.eye(3).to_sparse(layout=layout)
        assert torch.equal(handful.open((tensor, [0, 1, 0])).take([2, 0]).tensor("x"), torch.eye(3)[[2, 0]])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: sp.csr_array(np.array([[0.0, np.nan], [1, 0]])), "holds nan in row 0, column 1"),
        (lambda: sp.csr_array((2, 2**40)), "too many for mini-batches"),
        (lambda: sp.csr_array(np.array([[1j]])), "complex"),
        (lambda: {"x": WIDE, "age": np.arange(200.0), "y": LABELS}, "scipy.sparse.hstack"),
    ],
)
def test_what_cannot_be_read_is_said(data, says):
    with pytest.raises(HandfulError, match=says):
        handful.fit("linear", data(), **QUICK)


def test_other_widths_are_refused_at_prediction():
    run = handful.fit("linear", (WIDE, LABELS), **QUICK)
    with pytest.raises(HandfulError, match=r"\(299,\), but of \(300,\)"):
        run.predict({"x": WIDE[:, :299]})
