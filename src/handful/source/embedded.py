"""The real data sets that scikit-learn ships: no file, no download."""

import numpy as np

from ..errors import HandfulError
from .arrays import Arrays, Dense, Stored
from .base import Column
from .options import Options
from .table import chosen, with_target

NAMES = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def open_embedded(name: str, o: Options) -> Arrays:
    """digits: `image` uint8 [1, 8, 8] with values 0..16; the others: named numeric columns; target `target`.

    >>> from handful.source import open
    >>> open("digits").columns["image"].shape
    (1, 8, 8)
    """
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    stored: dict[str, Stored] = {}
    if name == "digits":
        images = data.images.astype(np.uint8)[:, None]
        stored["image"] = Dense(np.ascontiguousarray(images), Column("image", "uint8", images.shape[1:]))
    else:
        for j, feature in enumerate(data.feature_names):
            stored[str(feature)] = Dense(np.ascontiguousarray(data.data[:, j]), Column("number", "float64"))
    if hasattr(data, "target_names"):
        classes = tuple(str(c) for c in data.target_names)
        stored["target"] = Dense(data.target.astype(np.int64), Column("category", "int64", (), classes))
    else:
        stored["target"] = Dense(data.target.astype(np.float64), Column("number", "float64"))
    notes = [f"'{name}' is the data set that scikit-learn ships, {len(data.target):,} rows."]
    o = with_target(o, list(stored), notes)
    keep = chosen(o, list(stored))
    if not [key for key in keep if key != o.target]:
        raise HandfulError(f"{o.name} has no column to learn from: name one besides the target in columns=[...].")
    return Arrays({key: stored[key] for key in keep}, o.target, name=o.name, where=o.where, notes=notes)
