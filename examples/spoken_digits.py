"""Speech: which digit is said, by six speakers; the usual split (recordings 0-4 of each speaker and digit are test)."""

import argparse
import zipfile

import numpy as np

import handful

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--data", default="../shared/data/spoken-digits.zip")
options.add_argument("--epochs", type=int, default=15)
options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
given = options.parse_args()

digits = handful.open(given.data)  # a folder a class; rows are in the order of the file names
names = sorted(name for name in zipfile.ZipFile(given.data).namelist() if name.endswith(".wav"))
index = np.array([int(name.rsplit("_", 1)[1].removesuffix(".wav")) for name in names])
train, test = (digits.subset(np.flatnonzero(rows)) for rows in (index >= 5, index < 5))

scores = []
for seed in given.seeds:
    run = handful.fit("auto", train, batch=32, augment="auto", until=f"epochs({given.epochs})", seed=seed)
    scores.append(run.evaluate(test)["accuracy"])
    print(f"seed {seed}: accuracy {scores[-1]:.2%} on {len(test)} recordings that were never heard", flush=True)
if np.mean(scores) < 0.97:
    raise SystemExit("missed the target: 97%")
