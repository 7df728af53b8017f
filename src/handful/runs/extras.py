"""What the page of a run shows beside its curves: the confusion matrix of the held-out rows, augmented examples.

Collected when a run ends, while its data are at hand; kept in the run folder, for the page may be written again.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handful.base import files
from handful.report.figure import Figure
from handful.report.markup import Html, picture_grid
from handful.report.matrix import figure_matrix

if TYPE_CHECKING:
    from handful.runs.run import Run
    from handful.training.training import Training

CLASSES = 1000  # with more classes a matrix says little and its file is large


def write(run: "Run", t: "Training", folder: Path) -> str | None:
    """Collect and write `extras.json` and `augmented.png` to the run folder, before the page is written.

    Never fails a run that has been trained: returns a sentence where something could not be collected, else None.
    """
    if run.stopped_because == "it was interrupted":  # whoever did that waits
        return None
    try:
        _write_confusion(run, t, folder)
        pixels = augmented(t)
        if pixels is not None:
            from PIL import Image

            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            with files.atomic(folder / "augmented.png") as temporary:
                image.save(temporary, "PNG", optimize=True)
    except Exception as error:  # a picture is not worth a trained model
        return f"the report lacks a picture: {type(error).__name__}: {error}"
    return None


def _write_confusion(run: "Run", t: "Training", folder: Path) -> None:
    from handful.runs.evaluate import Details

    if run.pipeline.task != "classification" or t.valid is None or len(run.pipeline.classes or ()) > CLASSES:
        return
    details = Details(run)
    t.objective.evaluate(t.valid.epoch(t.evaluation_batch), details)
    if details.confusion is not None and details.confusion.any():
        found = {"labels": details.labels, "confusion": details.confusion.tolist()}
        files.write_text(folder / "extras.json", json.dumps(found))


def augmented(t: "Training") -> NDArray[np.uint8] | None:
    """A grid of the first training pictures (or spectrograms), plain above and as four epochs see them below.

    uint8 [C, height, width]; None where nothing is augmented or the rows are no pictures.
    """
    from handful.transform.augment.base import Augment
    from handful.transform.augment.default import picture
    from handful.transform.steps.numbers import ScaleImage

    steps = next((s for s in t.batches.transforms if isinstance(s, Augment)), None)
    if steps is None or t.pipeline.inputs.kind not in ("image", "audio"):
        return None
    source = t.batches.source
    batch = source.take(np.unique(np.linspace(0, len(source) - 1, 8).astype(np.int64)))
    for transform in t.batches.transforms:
        if transform is steps:
            break
        batch = transform(batch)
    scale = next((s for s in getattr(t.pipeline.input, "steps", ()) if isinstance(s, ScaleImage)), None)
    columns = t.pipeline.columns
    bytes_ = all(columns[name].dtype in ("uint8", "bytes") for name in t.pipeline.uses)
    mean = std = None
    if scale is not None and scale.mean is not None and scale.std is not None and bytes_:
        mean, std = scale.mean * 255, scale.std * 255
    grid: NDArray[np.uint8] = picture(steps, batch, mean=mean, std=std).numpy()
    return grid


def read(folder: Path | None) -> tuple[list[Figure], list[Html]]:
    """(figures, pictures) for the page of the run in a folder; what is not there, or damaged, is left out."""
    figures: list[Figure] = []
    pictures: list[Html] = []
    if folder is None:
        return figures, pictures
    try:
        found: dict[str, Any] = json.loads((folder / "extras.json").read_text(encoding="utf-8"))
        figures.append(figure_matrix(found["confusion"], found["labels"], "Confusion matrix of the held-out rows"))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        from PIL import Image

        with Image.open(folder / "augmented.png") as image:
            pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        title = "Augmented training rows: as they are, and as the model sees them in four epochs"
        pictures.append(picture_grid(pixels[None], ["first line: as they are"], title=title))
    except (OSError, ValueError):
        pass
    return figures, pictures
