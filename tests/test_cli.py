"""Every command, with a tiny budget on digits: what it prints, what it leaves, and that help costs no torch."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import handful
from handful.base.errors import HandfulError
from handful.base.files import free_folder
from handful.cli.watch import server_of
from handful.report.document import Page
from handful.sklearn import MiniBatchClassifier
from handful.training.watch.folder import RunFolder

TINY = ["--model", "linear", "--batch", "64", "--lr", "0.02", "--until", "epochs(2)"]


def outside(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder written by `handful train`, in a process of its own, and what that printed."""
    cwd = tmp_path_factory.mktemp("cli")
    done = outside("-m", "handful.cli", "train", "digits", *TINY, "--quiet", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / "digits-1", done


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The digits as raw input without the target."""
    source = handful.open("digits")
    path = tmp_path_factory.mktemp("raw") / "digits.npz"
    np.savez(path, **{name: source.read_column(name, np.arange(len(source))).numpy() for name in source.inputs})
    return path


def test_train_prints_one_result_and_leaves_a_run_folder(trained):
    path, done = trained
    lines = done.stdout.splitlines()
    assert lines[0].startswith("accuracy ")
    assert "stopped because reached 2 epochs" in lines[0]
    assert lines[1] == f"report: {Path('runs/digits-1/report.html')}"
    assert done.stderr == ""
    left = {p.name for p in path.iterdir()}
    assert {"plan.toml", "history.jsonl", "model.safetensors", "pipeline.json", "report.html", "checkpoints"} <= left
    assert "Confusion matrix" in (path / "report.html").read_text(encoding="utf-8")


def test_help_of_every_command_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['handful', *sys.argv[1:]]\n"
        "from handful.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'help imported torch or numpy'"
    )
    done = outside("-c", code, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("train", "resume", "evaluate", "predict", "inspect", "report", "export"):
        assert f" {name} " in done.stdout


def test_what_takes_long_to_load_is_loaded_where_it_is_needed(tmp_path):
    heavy = ("pandas", "scipy", "sklearn", "plotly", "sympy", "torch._dynamo", "rich")
    code = (
        "import sys, numpy as np, handful\n"
        "x = np.random.default_rng(0).standard_normal((200, 8)).astype('f')\n"
        "handful.fit('mlp', (x, (x[:, 0] > 0).astype(int)), until='epochs(2)', quiet=True)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = outside("-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr
    code = (
        "import sys, handful\n"
        "open('a.csv', 'w').write('x,y\\n' + ''.join(f'{i % 7},c{i % 2}\\n' for i in range(200)))\n"
        "handful.fit('mlp', 'a.csv', target='y', until='epochs(2)', quiet=True, out='run')\n"
        "handful.resume('run', until='epochs(3)', quiet=True)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = outside("-c", code, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr
    code = (
        "import sys, typer\nbefore = 'rich' in sys.modules  # old versions load it themselves\nimport handful.cli\n"
        "sys.argv = ['handful', '--help']\ntry:\n    handful.cli.main()\nfinally:\n"
    )
    done = outside("-c", code + "    print(not before and 'rich' in sys.modules)", cwd=tmp_path)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    "name",
    ["train", "tune", "compare", "resume", "evaluate", "predict", "prepare", "inspect", "report", "export"],
)
def test_help_of_a_command(command, name):
    status, out, err = command(name, "--help")
    assert status == 0
    assert f"handful {name}" in " ".join(out.split())
    assert err == ""


def test_version_and_no_arguments(command):
    assert command("--version") == (0, f"handful {handful.__version__}\n", "")
    _, out, err = command()
    assert "Usage" in out + err
    assert "Traceback" not in out + err


def test_resume_goes_on_to_a_later_stop(command, trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    before = handful.load(path, device="cpu").history.last("step")
    status, out, _ = command("resume", path, "--until", "epochs(3)", "--quiet")
    assert status == 0
    assert "reached 3 epochs" in out
    assert handful.load(path, device="cpu").history.last("step") > before


def test_resume_takes_what_may_change_and_no_more(command, trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    assert command("resume", path, "--until", "epochs(3)", "--lr", "0.001", "--schedule", "constant", "--quiet")[0] == 0
    run = handful.load(path, device="cpu")
    assert run.plan.lr == 0.001
    assert run.history.last("lr") == pytest.approx(0.001)
    assert "--seed" in command("resume", path, "--seed", "1")[2]


def test_a_table_is_piped_in_wherever_data_are_named(command, monkeypatch, tmp_path):
    values = np.random.default_rng(0).normal(size=60)
    table = "x,label\n" + "".join(f"{x:.4f},{'yes' if x > 0 else 'no'}\n" for x in values)
    (tmp_path / "rows.csv").write_text(table)
    short = ["--model", "linear", "--quiet"]
    assert command("train", tmp_path / "rows.csv", *short, "--until", "epochs(2)", "--out", tmp_path / "run")[0] == 0
    for words in (["evaluate", tmp_path / "run", "-"], ["tune", "-", "--model", "linear", "--until", "epochs(2)"],
                  ["profile", "-", *short, "--steps", "3", "--out", tmp_path / "profiled"]):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.encode())))
        status, _, err = command(*words)
        assert (status, err) == (0, ""), words
    assert (tmp_path / "profiled.csv").read_text() == table


def test_evaluate_prints_scores_classes_and_worst_rows(command, trained):
    path, _ = trained
    status, out, err = command("evaluate", path, "digits")
    assert (status, err) == (0, "")
    scores = handful.load(path, device="cpu").evaluate("digits")
    assert out.splitlines()[1] == f"accuracy {100 * scores['accuracy']:.1f}%"
    assert "precision" in out
    assert "rows of highest loss:" in out
    assert out.splitlines()[-1] == f"report: {path / 'evaluation.html'}"
    assert (path / "evaluation.html").exists()
    status, out, _ = command("evaluate", path, "digits", "--metrics", "f1", "--out", path / "other.html")
    assert out.splitlines()[1].startswith("f1 ")
    assert (path / "other.html").exists()


def test_scores_are_printed_where_the_folder_of_the_run_takes_no_page(command, trained, tmp_path, monkeypatch):
    """As of a run of somebody else's: they ended with status 2 behind the scores, and --json had none."""
    path, _ = trained

    def full(*given):
        raise HandfulError("no space is left")

    monkeypatch.setattr(Page, "write", full)
    status, out, err = command("evaluate", path, "digits")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "no report: no space is left; --out writes it elsewhere"
    told = json.loads(command("evaluate", path, "digits", "--json")[1])
    assert told["rows"] == 1797
    assert told["report"] is None
    assert command("evaluate", path, "digits", "--out", tmp_path / "page.html")[0] == 2


def test_predict_to_output_and_to_a_file(command, trained, raw, tmp_path):
    path, _ = trained
    status, out, err = command("predict", path, raw, "--probabilities")
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 1797
    assert abs(sum(float(v) for k, v in rows[0].items() if k.startswith("probability_")) - 1) < 1e-5
    status, out, _ = command("predict", path, raw, "--out", tmp_path / "p.parquet")
    assert out.strip() == str(tmp_path / "p.parquet")
    assert handful.open(tmp_path / "p.parquet", columns=["row", "prediction"]).take([3]).columns["row"].tolist() == [3]


def test_predict_reads_a_table_from_standard_input(command, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{x:.4f},{'yes' if x > 0 else 'no'}" for x in rng.normal(size=60)]
    (tmp_path / "train.csv").write_text("\n".join(["x,label", *lines]) + "\n")
    train = ["train", tmp_path / "train.csv", "--model", "linear", "--batch", "8", "--lr", "0.1", "--quiet"]
    assert command(*train, "--until", "epochs(20)", "--out", tmp_path / "run")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\n3.0\n-3.0\n")))
    assert command("predict", tmp_path / "run", "-") == (0, "row,prediction\n0,yes\n1,no\n", "")


def test_train_reads_a_table_from_standard_input_and_can_be_resumed(command, monkeypatch, tmp_path):
    values = np.random.default_rng(0).normal(size=60)
    table = "".join(f"{x:.4f},{'yes' if x > 0 else 'no'}\n" for x in values)
    lines = "".join(f'{{"x": {x:.4f}, "label": "{"yes" if x > 0 else "no"}"}}\n' for x in values)
    for ending, text in (("csv", f"x,label\n{table}"), ("jsonl", lines)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        out = tmp_path / ending
        assert command("train", "-", *TINY, "--batch", "8", "--quiet", "--out", out)[0] == 0
        assert (tmp_path / f"{ending}.{ending}").read_text() == text
        assert command("resume", out, "--until", "epochs(3)", "--quiet")[0] == 0
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": 3.0}\n{"x": -3.0}\n')))
        assert command("predict", out, "-")[1].splitlines()[0] == "row,prediction"


def test_what_a_newcomer_gets_wrong_is_answered_with_what_to_do(command, trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.csv").write_text(
        ",".join(f"c{k}" for k in range(20))
        + ",diagnosis\n"
        + "".join(f"{k}," * 20 + f"{'ill' if k % 2 else 'well'}\n" for k in range(20))
    )
    err = command("train", "many.csv")[2]
    assert "name the column to predict with --target ..." in err
    assert "diagnosis)" in err
    (tmp_path / "labels.csv").write_text("id,is\n1,ill\n")
    assert "have to be joined to it first" in command("train", "many.csv", "--target", "labels.csv")[2]
    shutil.copytree(trained[0], tmp_path / "runs" / "digits-1")
    for named in ("digits-1", "runs/digits"):
        assert "Did you mean 'runs/digits-1'?" in command("resume", named)[2]
    assert "here it is --device 'cuda'" in command("train", "digits", "--gpu")[2]
    assert command("train", "digits", "--confg", "c.toml")[2].endswith("'--confg'. Did you mean '--config'?\n")


def test_inspect_data_and_run(command, trained):
    status, out, _ = command("inspect", "digits")
    assert status == 0
    assert "1,797 rows" in out
    assert "shuffle" not in out
    assert "shuffle, batches of 64" in command("inspect", "digits", "--full")[1]
    status, out, _ = command("inspect", trained[0])
    assert status == 0
    assert "rows per step 64 (given)" in out
    assert "cross_entropy" not in out
    assert "cross_entropy" in command("inspect", trained[0], "--full")[1]


def test_report_is_written_again_from_the_folder_alone(command, trained, tmp_path):
    status, out, _ = command("report", trained[0], "--out", tmp_path / "again.html")
    assert (status, out.strip()) == (0, str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text() == (trained[0] / "report.html").read_text()


def test_reports_side_by_side(command, trained, tmp_path):
    other = shutil.copytree(trained[0], tmp_path / "other")
    text = (other / "history.jsonl").read_text().splitlines()
    (other / "result.json").unlink()  # one that goes on, whose last line is half written
    (other / "history.jsonl").write_text("\n".join([*text, text[-1][:20]]))
    status, out, _ = command("report", trained[0], other, "--out", tmp_path / "both.html")
    assert (status, out.strip()) == (0, str(tmp_path / "both.html"))
    page = (tmp_path / "both.html").read_text()
    assert "2 runs side by side" in page
    assert str(trained[0].parent) not in page  # nor any other path
    assert page.count(other.name) >= 2
    assert str(tmp_path) not in page


def test_watch_follows_a_run_to_its_end(command, trained):
    status, _, err = command("watch", trained[0])
    assert status == 0
    assert "accuracy" in err
    assert err.splitlines()[-1].startswith("stopped: ")
    assert command("watch", trained[0].parent / "none")[0] == 2


def test_the_page_of_a_run_that_goes_on_is_served_to_this_machine_alone(trained, tmp_path):
    ended, going = RunFolder(trained[0]), RunFolder(shutil.copytree(trained[0], tmp_path / "going"))
    (going.path / "result.json").unlink()
    for folder, reloads in ((ended, False), (going, True)):
        with server_of(folder, 0) as server:
            assert server.server_address[0] == "127.0.0.1"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port = server.server_port
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode()
            assert ("location.reload()" in page) == reloads
            assert "held-out rows" in page
            other = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": f"evil.example:{port}"})
            for wrong in (other, f"http://127.0.0.1:{port}/plan.toml"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(wrong)
            server.shutdown()


def test_export_weights_and_a_program(command, trained, raw, tmp_path):
    path, _ = trained
    run = handful.load(path, device="cpu")
    assert command("export", path, tmp_path / "w.safetensors")[0] == 0
    weights = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert {k: v.tolist() for k, v in weights.items()} == {k: v.tolist() for k, v in run.model.state_dict().items()}
    assert command("export", path, tmp_path / "m.pt2")[0] == 0
    program = torch.export.load(tmp_path / "m.pt2").module()
    rows = handful.open(raw, columns=run.pipeline.schema).take(range(5))
    torch.testing.assert_close(program(rows.columns), run.predict(raw, probabilities=True)[:5])
    status, _, err = command("export", path, tmp_path / "m.h5")
    assert status == 2
    assert ".safetensors" in err


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("--epochs", "--until 'epochs(N)'"), ("--batch-size", "--batch N"), ("--learning_rate", "--lr X"),
     ("--num-train-epochs", "--until 'epochs(N)'"), ("--output-dir", "--out FOLDER"),
     ("--dropout", "an option of the model: 'mlp(dropout=0.1)'"),
     ("--warmup-ratio", "--schedule 'cosine(warmup=0.05)'")],
)  # fmt: skip
def test_the_flag_of_another_tool_is_answered_with_the_right_one(command, wrong, right):
    status, out, err = command("train", "digits", wrong, "3")
    assert (status, out) == (2, "")
    assert err == f"handful: there is no {wrong}; here it is {right}\n"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--lr", "this command has no --lr; `handful train` has"),
        ("--batch-growth", "this command has no --batch-growth; handful.fit(..., batch_growth=...), in Python, has"),
    ],
)
def test_a_flag_of_another_command_is_sent_there(command, flag, said):
    assert command("predict", "run", "digits", flag, "1")[2] == f"handful: {said}\n"


def test_a_run_of_a_pattern_has_a_plain_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert free_folder("data/train-*.parquet") == Path("runs/train-1")
    assert free_folder("*.csv") == Path("runs/run-1")


def test_so_it_is_in_a_file_of_options_and_in_python(command, tmp_path):
    file = tmp_path / "options.toml"
    file.write_text("num_epochs = 3\n")
    err = command("train", "digits", "--config", file)[2]
    assert err == f"handful: {file}: there is no num_epochs; here it is --until 'epochs(N)'\n"
    with pytest.raises(HandfulError, match=r"there is no batch_size; here it is batch=N$"):
        handful.fit("linear", "iris", batch_size=8)
    with pytest.raises(TypeError, match=r"^MiniBatchClassifier: there is no max_iter; here it is until='steps\(N\)'$"):
        MiniBatchClassifier("linear", max_iter=8)
    with pytest.raises(TypeError, match=r"'clip_norm' is given as options=\{'clip_norm': ...\}$"):
        MiniBatchClassifier("linear", clip_norm=1.0)
    assert command("compare", "digits", "--budget", "0")[2].startswith("handful: --budget must be ")


def test_mistakes_speak_of_flags_in_one_sentence(command):
    assert command("train", "digits", "--micro-batch", "0")[2].startswith("handful: --micro-batch must be ")
    for arguments in (("train",), ("trainn",), ("train", "digits", "--nothing-like-it", "1")):
        status, out, err = command(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("handful: ")


def test_json_is_one_value_alone_on_standard_output(command, trained, raw, tmp_path):
    path, _ = trained
    given = ["train", "digits", *TINY, "--out", tmp_path / "run", "--json", "--quiet"]
    status, out, _ = command(*given)
    assert status == 0
    told = json.loads(out)
    assert told["scores"] == handful.load(tmp_path / "run", device="cpu").scores
    assert told["stopped_because"] == "reached 2 epochs"
    assert json.loads(command("evaluate", path, "digits", "--json")[1])["rows"] == 1797
    predictions = json.loads(command("predict", path, raw, "--json")[1])
    assert len(predictions) == 1797
    assert predictions[3].keys() == {"row", "prediction"}
    assert json.loads(command("inspect", "wine", "--json")[1])["rows"] == 178
    assert json.loads(command("inspect", path, "--json")[1])["choices"]["batch"]["value"] == 64
    assert json.loads(command("diff", path, tmp_path / "run", "--json")[1])["parted"] is None
    assert isinstance(json.loads(command("doctor", "--json")[1]), list)


def test_flags_have_precedence_over_a_file_of_options(command, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "linear"\nbatch = 64\nlr = 0.02\nuntil = "epochs(2)"\nlabel-smoothing = 0.1\n')
    given = ["train", "digits", "--config", file, "--dry-run", "--json", "--batch", "32"]
    choices = json.loads(command(*given)[1])["choices"]
    assert choices["batch"]["value"] == 32
    assert choices["lr"]["value"] == 0.02
    assert choices["until"]["value"] == "epochs(2)"
    assert not (tmp_path / "runs").exists()
    file.write_text("bach = 64\n")
    status, _, err = command(*given)
    assert status == 2
    assert "there is no option 'bach'. Did you mean 'batch'?" in err
    file.write_text("batch 64\n")
    assert "is not TOML" in command(*given)[2]


def test_a_dry_run_prints_the_plan_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = command("train", "digits", *TINY, "--dry-run")
    assert status == 0
    assert "cross_entropy" in out
    assert list(tmp_path.iterdir()) == []


def test_several_files_are_predicted_one_after_the_other(command, trained, raw, tmp_path):
    other = shutil.copy(raw, tmp_path / "other.npz")
    rows = list(csv.DictReader(io.StringIO(command("predict", trained[0], raw, other)[1])))
    assert len(rows) == 2 * 1797
    assert {row["file"] for row in rows} == {str(raw), str(other)}
    assert rows[0]["prediction"] == rows[1797]["prediction"]


def test_files_of_a_run_are_as_readable_as_the_umask_says(trained):
    path, _ = trained
    modes = {p.name: p.stat().st_mode & 0o777 for p in path.rglob("*") if p.is_file()}
    assert modes["model.safetensors"] == modes["history.jsonl"] == 0o666 & ~umask()


def umask():
    found = os.umask(0o22)
    os.umask(found)
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "wine", "--config", "none.toml"], "none.toml cannot be read: No such file or directory"),
        (["train", "wine", "--config", "."], ". cannot be read: it is a folder, a pipe, a device or the like"),
        (["watch", "RUN", "--serve", "--port", "70000"], "port 70000 cannot be had (ports are 0 to 65535)"),
        (["inspect", "wine", "--verify"], "wine has no manifest.json, so it is not a store"),
        (["tune", "wine", "--ranks", "0", "--link", "1e-5,1e10"], "--ranks must be a positive integer, not 0.0"),
        (["tune", "wine", "--ranks", "2.5", "--link", "1e-5,1e10"], "--ranks must be a positive integer, not 2.5"),
        (["tune", "wine", "--ranks", "2", "--link", "0,0"], "the speed of a link must be a number above 0, not 0.0"),
        (["tune", "wine", "--ranks", "2", "--link", "-1,5"], "the delay of a link must be a number of at least 0"),
        (["train", "wine", "--optimizer", "adam(lr="], "the optimizer 'adam(lr=' cannot be read"),
        (["train", "wine", "--bad-rows", "-1"], "--bad-rows, if not 'stop' or 'skip', must be at least 0, not -1"),
        (["prepare", "wine", "store", "--shards", "0"], "--shards must be at least 1, not 0"),
        (["train", "wine", "--out", "RUN"], " or --resume; choose another folder; or replace it by --overwrite\n"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_the_words_of_the_command(command, trained, arguments, said):
    status, _, err = command(*(trained[0] if a == "RUN" else a for a in arguments))
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("handful: ")
    assert said in err


def test_help_lists_the_commands_in_the_order_in_which_one_needs_them(command):
    names = [line.split()[0] for line in command("--help")[1].partition("Commands:")[2].splitlines() if line[2:3] > " "]
    assert names[:3] == ["train", "profile", "compare"]
    assert names[-1] == "doctor"
    assert " RUN" in command("resume", "--help")[1].replace("{RUN}", " RUN")  # as the other texts of help call it
    assert "--collate" not in command("train", "--help")[1]  # which takes a function


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "RUN", "table.csv", "--out", "table.csv"], "table.csv is read here, and would be replaced"),
        (["evaluate", "RUN", "digits", "--out", "table.csv"], "table.csv is there already and is no page"),
        (["report", "RUN", "--out", "table.csv"], "table.csv is there already and is no page"),
        (["export", "RUN", "RUN/model.safetensors"], "model.safetensors is what the run keeps its weights in"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_nothing_is_written_over_what_is_read(command, trained, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("a,b\n1,2\n")
    weights = (trained[0] / "model.safetensors").read_bytes()
    status, _, err = command(*(a.replace("RUN", str(trained[0])) for a in arguments))
    assert (status, err.count("\n")) == (2, 1)
    assert said in err
    assert Path("table.csv").read_text() == "a,b\n1,2\n"
    assert (trained[0] / "model.safetensors").read_bytes() == weights


def test_a_comparison_that_cannot_begin_leaves_no_folder(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for wrong in (["--batches", "x"], ["--lrs", "0"]):
        assert command("compare", "iris", *wrong)[0] == 2
    assert list(Path("runs").glob("*")) == []


def test_a_mistake_is_one_sentence_and_status_2(command, trained):
    for arguments in (("evaluate", trained[0], "digit"), ("train", "digits", "--optimizer", "adamm"), ("report", "no")):
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("handful: ")
        assert err.count("\n") == 1
