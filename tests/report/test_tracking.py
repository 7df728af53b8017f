"""Tracking callbacks: what is logged, and the sentence for who lacks the library."""

import json
import struct
import sys
import types

import pytest
import torch

import handful
from handful.base.errors import HandfulError
from handful.base.plan import Choice, Plan
from handful.report.tracking import MLflow, Pruning, TensorBoard, WandB

PLAN = Plan({"batch": Choice(64, "measured", "fast"), "classes": Choice(("cat", "dog"), "found")})
ROW = {"step": 3, "position": 192, "epoch": 0.1, "seconds": 2.0, "lr": 1e-3, "train_loss": 0.5, "name": "x"}


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (lambda: TensorBoard("x"), "torch.utils.tensorboard"), (MLflow, "mlflow.tracking"),
        (lambda: WandB("x"), "wandb"), (lambda: Pruning(None), "optuna"),
    ],
)  # fmt: skip
def test_a_missing_library_is_one_sentence(make, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HandfulError, match=r"is not installed: pip install 'handful\[track\]'"):
        make()


def run(callback, status="finished"):
    callback("start", {"plan": PLAN, "notes": []})
    callback("step", {"step": 1, "position": 64})
    callback("step", ROW)
    callback("evaluate", ROW | {"position": 256, "valid_loss": float("nan"), "valid_accuracy": 0.75})
    callback("checkpoint", {"step": 3, "position": 192})
    callback("end", {"run": types.SimpleNamespace(stopped_because="done"), "status": status})


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

    def update_run(self, run_id, status=None):
        self.created = (run_id, status)

    def set_tag(self, run_id, key, value):
        self.params[key] = value

    def set_terminated(self, run_id, status=None):
        self.ended.append((run_id, status))


def test_mlflow_is_told_choices_numbers_and_the_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=Client))
    run(MLflow("file:/somewhere", experiment="digits", name="first"))
    client = Client.last
    assert client.uri == "file:/somewhere"
    assert client.created == ("7", "first")
    assert client.params == {"batch": "64", "classes": "cat, dog", "ended": "finished: done"}
    assert ("r1", "train_loss", 0.5, 192) in client.metrics
    assert ("r1", "valid_accuracy", 0.75, 256) in client.metrics
    assert {key for _, key, _, _ in client.metrics} == {"lr", "train_loss", "valid_loss", "valid_accuracy"}
    assert client.ended == [("r1", "FINISHED")]


def test_a_resumed_run_goes_on_with_its_run_of_mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=Client))
    before = MLflow()
    before("start", {"plan": PLAN})
    again = MLflow()
    again.load_state_dict(before.state_dict())
    run(again, "interrupted")
    assert Client.last.created == ("r1", "RUNNING")
    assert Client.last.params == {"ended": "interrupted: done"}
    assert Client.last.ended == [("r1", "KILLED")]


QUICK = {"batch": 16, "lr": 0.05, "valid": 0.25, "until": "steps(12)", "evaluate_every": 0.5, "quiet": True}


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def fails(event, info):
    if event == "step" and info["step"] == 9:
        raise RuntimeError("no disk left")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # mlflow's own
def test_mlflow_itself(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri, out = f"sqlite:///{tmp_path / 'runs.db'}", tmp_path / "run"
    tracker = {"uri": uri, "experiment": "iris", "name": "first"}
    done = handful.fit(network(), "iris", out=out, callbacks=[handful.callback.MLflow(**tracker)], **QUICK)
    handful.resume(out, model=network(), until="steps(20)", callbacks=[MLflow(**tracker)])
    with pytest.raises(RuntimeError, match="no disk left"):
        handful.fit(network(), "iris", callbacks=[MLflow(**tracker), fails], **QUICK)
    client = mlflow.MlflowClient(tracking_uri=uri)
    failed, found = client.search_runs([client.get_experiment_by_name("iris").experiment_id])
    assert found.data.params["batch"] == "16"
    metrics = client.get_metric_history(found.info.run_id, "valid_loss")
    rows = [(row["position"], row["valid_loss"]) for row in done.history if "valid_loss" in row]
    assert [(m.step, m.value) for m in metrics][: len(rows)] == rows
    assert metrics[-1].step > rows[-1][0]
    assert (found.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["ended"] == "failed: no disk left"


def records(content):
    """Of a file in LevelDB's log format, after its header of 7 bytes: whole, or first, middle and last parts."""
    at, data = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<4xHB", content[at : at + 7])
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield data
            data = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
def test_weights_and_biases_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = {"project": "iris", "mode": "offline", "folder": tmp_path}
    done = handful.fit(network(), "iris", callbacks=[handful.callback.WandB(**tracker)], **QUICK)
    with pytest.raises(RuntimeError, match="no disk left"):
        handful.fit(network(), "iris", callbacks=[WandB(**tracker), fails], **QUICK)
    codes, seen = set(), []
    for path in tmp_path.rglob("*.wandb"):
        numbers = []
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("exit"):
                codes.add(record.exit.exit_code)
                seen = numbers if record.exit.exit_code == 0 else seen
            found = {"".join(i.nested_key or [i.key]): json.loads(i.value_json) for i in record.history.item}
            numbers += [(found["position"], found["valid_loss"])] if "valid_loss" in found else []
    assert codes == {0, 1}
    assert seen == [(row["position"], row["valid_loss"]) for row in done.history if "valid_loss" in row]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # optuna's own
def test_optuna_itself_prunes_a_trial_whose_run_is_worse():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ended = []

    def objective(trial):
        lr = trial.suggest_categorical("lr", [0.05, 1e-6])
        hear = lambda event, info: ended.append(info["run"]) if event == "end" else None
        prune = handful.callback.Pruning(trial, "valid_loss")
        return handful.fit(network(), "iris", callbacks=[prune, hear], **QUICK | {"lr": lr}).best["valid_loss"]

    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=100))
    for lr in (0.05, 1e-6):
        study.enqueue_trial({"lr": lr})
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert ended[1].stopped_because.startswith("Optuna pruned the trial: valid_loss ")
    assert ended[1].state.step < 12
    assert study.trials[0].intermediate_values == {
        row["position"]: row["valid_loss"] for row in ended[0].history if "valid_loss" in row
    }
    with pytest.raises(HandfulError, match="the run has no valid_f2 to prune by; it has valid_loss, valid_accuracy"):
        handful.fit(network(), "iris", callbacks=[Pruning(study.ask(), "valid_f2")], **QUICK)
