"""Tables: handful's table model, all settings default, beside scikit-learn's MLP and gradient boosting, fold by fold.

    python examples/tables.py

Five sets that scikit-learn ships, plotly's gapminder, and 3,000 rows of two of scikit-learn's generators. Fails where
handful is behind the MLP, which gets standardised inputs and targets, by more than the spread of the folds.
"""

import sys

import numpy as np
import plotly.data
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

gapminder = plotly.data.gapminder()
small = ("iris", "wine", "breast_cancer", "digits", "diabetes")
SETS = {name: getattr(datasets, f"load_{name}")(return_X_y=True) for name in small}
SETS |= {"hastie": datasets.make_hastie_10_2(3000, random_state=0)}
SETS |= {"friedman": datasets.make_friedman1(3000, noise=1.0, random_state=0)}
SETS |= {"gapminder": (gapminder[["year", "pop", "gdpPercap"]].to_numpy(float), gapminder["lifeExp"].to_numpy())}


def models(regression):
    if not regression:
        mlp = MLPClassifier(max_iter=1000, random_state=0)
        return MiniBatchClassifier(), make_pipeline(StandardScaler(), mlp), HistGradientBoostingClassifier()
    mlp = TransformedTargetRegressor(MLPRegressor(max_iter=1000, random_state=0), transformer=StandardScaler())
    return MiniBatchRegressor(), make_pipeline(StandardScaler(), mlp), HistGradientBoostingRegressor()


behind = []
for name, (x, y) in SETS.items():
    regression = np.asarray(y).dtype.kind == "f" and len(np.unique(y)) > 20
    folds = (KFold if regression else StratifiedKFold)(3, shuffle=True, random_state=0)
    ours, mlp, trees = (cross_val_score(model, x, y, cv=folds) for model in models(regression))
    said = ", ".join(f"{s.mean():.3f} ({s.std():.3f})" for s in (ours, mlp, trees))
    print(f"{name}, {'R2' if regression else 'accuracy'} of handful, MLP, trees: {said}", flush=True)
    if (ours - mlp).mean() < -max(ours.std(), mlp.std()):
        behind.append(name)
sys.exit(f"handful is behind the MLP on {', '.join(behind)}" if behind else 0)
