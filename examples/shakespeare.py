"""Language: the next character of Shakespeare, beside nanoGPT's CPU-sized baby configuration given the same time."""

import argparse

import numpy as np
import torch
from nanogpt_baby import train as train_baby

import handful
from handful.transform.language import language_source

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--data", default="../shared/data/shakespeare.txt")
options.add_argument("--minutes", type=float, default=1.0, help="for each, at most")
options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
given = options.parse_args()

train, valid = language_source(handful.open(given.data), 64)  # the last tenth is held out, as `handful train` does
tokens, rows = torch.from_numpy(train.tokens.astype("int64")), valid.take(range(len(valid)))
ours, theirs = [], []
for seed in given.seeds:
    baby, seconds, seen = train_baby(tokens, train.vocabulary, 60 * given.minutes, seed)
    with torch.inference_mode():
        theirs.append(baby.loss(rows["x"], rows["y"]).item())
    epochs = 0.9 * seen / len(tokens)  # a tenth of the time is left for evaluating
    run = handful.fit(
        "auto", given.data, batch=8, lr=3e-3, schedule="cosine(warmup=0.1)", until=f"epochs({epochs:.4f})",
        evaluate_every=epochs, seed=seed,
    )  # fmt: skip
    ours.append(run.scores["valid_loss"])
    took = run.history[-1]["seconds"]
    print(f"seed {seed}, loss per held-out character: handful {ours[-1]:.3f} in {took:.0f} s, nanoGPT's baby "
          f"{theirs[-1]:.3f} in {seconds:.0f} s", flush=True)  # fmt: skip

print(run.sample(length=300))
if np.mean(ours) > np.mean(theirs):
    raise SystemExit("missed the target: at or below nanoGPT's baby configuration")
