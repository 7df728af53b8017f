"""Text: 10,662 sentences of film reviews, praise or not: `handful train movie-reviews.csv` beside scikit-learn."""

import argparse

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import handful
from handful.data.split import split

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--data", default="../shared/data/movie-reviews.csv")
options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
given = options.parse_args()

reviews, ours, theirs = handful.open(given.data), [], []
for seed in given.seeds:
    train, valid = split(reviews, 0.1, seed=seed)  # as `handful train` holds rows out
    run = handful.fit("auto", given.data, augment="auto", seed=seed)
    ours.append(run.evaluate(valid)["accuracy"])
    a, b = (part.take(np.arange(len(part))) for part in (train, valid))
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(a["text"], a["label"])
    theirs.append(words.score(b["text"], b["label"]))
    print(f"seed {seed}: handful {ours[-1]:.1%}, TF-IDF and logistic regression {theirs[-1]:.1%}", flush=True)

print(run.predict(["a moving and funny film", "a dull mess from start to end"]).tolist())
if np.mean(ours) < 0.77 or np.mean(ours) <= np.mean(theirs):
    raise SystemExit("missed the target: 77% and ahead of logistic regression")
