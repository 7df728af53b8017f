"""Tracking callbacks: what is logged, and the sentence for who lacks the library."""

import sys
import types

import pytest

from handful.base.errors import HandfulError
from handful.base.plan import Choice, Plan
from handful.report.tracking import MLflow, TensorBoard

PLAN = Plan({"batch": Choice(64, "measured", "fast"), "classes": Choice(("cat", "dog"), "found")})
ROW = {"step": 3, "position": 192, "epoch": 0.1, "seconds": 2.0, "lr": 1e-3, "train_loss": 0.5, "name": "x"}


@pytest.mark.parametrize(
    ("make", "module"), [(lambda: TensorBoard("x"), "torch.utils.tensorboard"), (MLflow, "mlflow.tracking")]
)
def test_a_missing_library_is_one_sentence(make, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HandfulError, match=r"is not installed: pip install handful\[tracking\]"):
        make()


def run(callback):
    callback("start", {"plan": PLAN, "notes": []})
    callback("step", {"step": 1, "position": 64})
    callback("step", ROW)
    callback("evaluate", ROW | {"position": 256, "valid_loss": float("nan"), "valid_accuracy": 0.75})
    callback("checkpoint", {"step": 3, "position": 192})
    callback("end", {"run": None, "stopped_because": "done"})


@pytest.mark.filterwarnings("default")  # TensorBoard's own
def test_tensorboard_files_hold_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(TensorBoard(tmp_path / "events"))
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(events.Tags()["scalars"]) == {"lr", "loss/train", "loss/valid", "accuracy/valid"}
    assert [(e.step, e.value) for e in events.Scalars("accuracy/valid")] == [(256, 0.75)]
    assert [e.step for e in events.Scalars("loss/train")] == [192, 256]
    text = events.Tensors("choices/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| batch | 64 |" in text


class Client:
    """Stands for mlflow's client: the same method names and arguments, and what was said to it."""

    def __init__(self, tracking_uri=None):
        self.uri, self.params, self.metrics, self.ended, self.experiments = tracking_uri, {}, [], [], {}
        Client.last = self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment_id, run_name=None):
        self.created = (experiment_id, run_name)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def log_param(self, run_id, key, value):
        self.params[key] = value

    def log_metric(self, run_id, key, value, step=None):
        self.metrics.append((run_id, key, value, step))

    def set_terminated(self, run_id):
        self.ended.append(run_id)


def test_mlflow_is_told_choices_numbers_and_the_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=Client))
    run(MLflow("file:/somewhere", experiment="digits", name="first"))
    client = Client.last
    assert client.uri == "file:/somewhere"
    assert client.created == ("7", "first")
    assert client.params == {"batch": "64", "classes": "cat, dog"}
    assert ("r1", "train_loss", 0.5, 192) in client.metrics
    assert ("r1", "valid_accuracy", 0.75, 256) in client.metrics
    assert {key for _, key, _, _ in client.metrics} == {"lr", "train_loss", "valid_loss", "valid_accuracy"}
    assert client.ended == ["r1"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # mlflow's own
def test_mlflow_itself(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    run(MLflow(uri, experiment="digits", name="first"))
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert len(found) == 1
    assert found[0].data.params["batch"] == "64"
    assert found[0].data.metrics["valid_accuracy"] == 0.75
    assert found[0].info.status == "FINISHED"
