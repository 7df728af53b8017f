"""Raw input as a person has it at hand: each way of giving it predicts what the table of training would."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

import handful
from handful.base.errors import HandfulError


def quick(model, data, **given):
    return handful.fit(
        model, data, **{"batch": 8, "lr": 1e-2, "until": "epochs(3)", "precision": "float32", "quiet": True, **given}
    )


GOOD, BAD = "a fine and moving film", "a dull and silly mess"


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    rows = ["review,mood"]
    for i in range(60):
        words = (GOOD, BAD)[i % 2].split()
        rng.shuffle(words)
        rows.append(f"{' '.join(words)} number {i},{('good', 'bad')[i % 2]}")
    (folder / "reviews.csv").write_text("\n".join(rows) + "\n")
    return quick("text", folder / "reviews.csv", target="mood", until="epochs(10)", out=folder / "run")


def test_a_sentence_a_list_a_file_and_a_table_predict_the_same(sentences, tmp_path):
    (tmp_path / "two.txt").write_text(f"{GOOD}\n{BAD}\n")
    (tmp_path / "two.csv").write_text(f"review\n{GOOD}\n{BAD}\n")
    expected = sentences.outputs([GOOD, BAD])
    assert sentences.predict([GOOD, BAD]).tolist() == ["good", "bad"]
    assert sentences.outputs(tmp_path / "two.txt").equal(expected)
    assert sentences.outputs(str(tmp_path / "two.csv")).equal(expected)
    assert sentences.outputs({"review": GOOD}).equal(sentences.outputs(GOOD))
    assert sentences.predict(BAD).tolist() == ["bad"]


def test_a_sentence_with_dots_and_digits_is_a_sentence_but_a_file_name_is_not(sentences):
    assert sentences.predict("it cost me 3.50 and was fine").shape == (1,)
    for name in ("my reviews.csv", "no such.txt", "nothing", "a/b"):
        with pytest.raises(HandfulError, match="is not a file, a folder or a data set"):
            sentences.predict(name)


def test_the_command_takes_a_sentence_and_lines_from_standard_input(sentences, command):
    code, out, _ = command("predict", sentences.path, GOOD)
    assert (code, out) == (0, "row,prediction\n0,good\n")
    for stdin in (f"{BAD}\n{GOOD}\n", f"review\n{BAD}\n{GOOD}\n"):
        code, out, _ = command("predict", sentences.path, "-", stdin=stdin.encode())
        assert (code, out) == (0, "row,prediction\n0,bad\n1,good\n")
        code, out, _ = command("predict", sentences.path, "-", "--json", stdin=stdin.encode())
        assert json.loads(out) == [{"row": 0, "prediction": "bad"}, {"row": 1, "prediction": "good"}]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    for i in range(24):
        name, hertz = ("low", 300) if i % 2 else ("high", 2000)
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        wave = np.sin(2 * np.pi * hertz * np.arange(2400 + 50 * i) / 8000) + 0.05 * rng.normal(size=2400 + 50 * i)
        soundfile.write(folder / "data" / name / f"{i}.wav", 0.5 * wave, 8000)
    return folder, quick("audio", folder / "data", out=folder / "run", until="epochs(15)", valid=4)


def test_one_sound_several_and_a_flat_folder(tones, tmp_path):
    folder, run = tones
    files = [folder / "data" / "low" / "1.wav", folder / "data" / "high" / "0.wav"]
    for i, file in enumerate(files):
        (tmp_path / f"{i}.wav").write_bytes(file.read_bytes())
    assert run.predict(files[0]).tolist() == ["low"]
    both = run.outputs(files)
    assert run.predict(files).tolist() == ["low", "high"]
    assert run.outputs(tmp_path).equal(both)
    samples = [soundfile.read(file, dtype="float32")[0] for file in files]
    assert run.outputs({"audio": samples}).equal(both)
    with pytest.raises(HandfulError, match="there is no file"):
        run.predict([files[0], tmp_path / "missing.wav"])


def test_one_picture_and_a_folder_for_a_model_of_a_column_by_another_name(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (40, 3, 12, 12)).astype(np.uint8)
    x[::2, 0] = 250
    run = quick("cnn", {"photo": x, "y": np.arange(40) % 2}, target="y", valid=None)
    for i in range(3):
        Image.fromarray(x[i].transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    assert run.outputs(tmp_path).equal(run.outputs({"photo": x[:3]}))
    assert run.outputs(tmp_path / "1.png").equal(run.outputs({"photo": x[1:2]}))


def test_one_row_of_a_table(tmp_path):
    run = quick("table", "wine", out=tmp_path / "run")
    source = handful.open("wine")
    row = {name: source.read_column(name, np.arange(3))[2].item() for name in run.pipeline.uses}
    assert run.outputs(row).equal(run.outputs({name: [value] for name, value in row.items()}))
    (tmp_path / "row.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    assert run.predict(tmp_path / "row.csv").tolist() == run.predict(row).tolist()


def test_a_saved_run_predicts_the_same_bits_in_another_process_without_the_data(sentences, tones, tmp_path):
    """Folders are copied away from the data; the other process sees only them."""
    code = (
        "import sys, json, handful\n"
        "for folder, raw in json.loads(sys.argv[1]):\n"
        "    run = handful.load(folder)\n"
        "    print(json.dumps([run.predict(raw).tolist(), run.outputs(raw).numpy().tobytes().hex()]))"
    )
    sound = str(tones[0] / "data" / "low" / "3.wav")
    runs = [(sentences, GOOD), (tones[1], sound)]
    moved = []
    for i, (run, raw) in enumerate(runs):
        run.path.rename(tmp_path / str(i))
        moved.append([str(tmp_path / str(i)), raw])
    try:
        out = subprocess.run(
            [sys.executable, "-c", code, json.dumps(moved)], capture_output=True, text=True, check=True
        )
    finally:
        for i, (run, _) in enumerate(runs):
            (tmp_path / str(i)).rename(run.path)
    found = [json.loads(line) for line in out.stdout.splitlines()]
    assert found == [[run.predict(raw).tolist(), run.outputs(raw).numpy().tobytes().hex()] for run, raw in runs]
