"""Speech: recordings of 3 to 5 spoken digits in a row -> their sequence, by CTC. Nobody says where a digit begins."""

import argparse
import zipfile

import numpy as np

import handful

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--data", default="../shared/data/spoken-digits.zip")
options.add_argument("--epochs", type=int, default=10)
options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
given = options.parse_args()

digits = handful.open(given.data)  # a folder a class; rows are in the order of the file names
names = sorted(name for name in zipfile.ZipFile(given.data).namelist() if name.endswith(".wav"))
index = np.array([int(name.rsplit("_", 1)[1].removesuffix(".wav")) for name in names])
sounds = digits.read_column("audio", np.arange(len(digits)))
labels = digits.read_column("label", np.arange(len(digits))).numpy()


def joined(pool, count, rng):
    """`count` sequences of 3 to 5 recordings drawn from the rows `pool`: the samples, and the digits."""
    audio, said = [], []
    for _ in range(count):
        rows = rng.choice(pool, rng.integers(3, 6))
        audio.append(np.concatenate([sounds.values[sounds.offsets[r] : sounds.offsets[r + 1]] for r in rows]))
        said.append(labels[rows])
    return handful.open({"audio": audio, "digits": said}, target="digits", rate=8000)


rates = []
for seed in given.seeds:
    rng = np.random.default_rng(seed)
    train = joined(np.flatnonzero(index >= 5), 2000, rng)
    test = joined(np.flatnonzero(index < 5), 400, rng)  # the usual split: index 0-4 of every speaker and digit
    until = f"epochs({given.epochs})"
    run = handful.fit("auto", train, until=until, batch=8, lr=2e-3, augment="auto", seed=seed)
    rates.append(run.evaluate(test)["word_error_rate"])
    print("said", test.read_column("digits", np.arange(1)).values.tolist(), "heard", run.predict(test)[0].tolist())
    print(f"seed {seed}: word error rate {rates[-1]:.2%} on {len(test)} sequences of unheard recordings", flush=True)
if np.mean(rates) >= 0.10:
    raise SystemExit("missed the target: a word error rate under 10%")
