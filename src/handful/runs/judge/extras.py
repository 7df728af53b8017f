"""What the page of a run shows next to its curves: how it does on the held-out rows, augmented examples.

Collected when a run ends, while its data are at hand; kept in the run folder, for the page may be written again.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from handful.base import files
from handful.base.errors import HandfulError
from handful.base.stopwatch import part
from handful.batches.batches import Batches
from handful.data.series import spread_rows
from handful.report.document import picture_grid
from handful.runs.judge.evaluate import Evaluation, evaluate
from handful.runs.judge.examples import DARK
from handful.training.training import Training
from handful.training.watch.weights import buffers_kept
from handful.transform.augment.base import Augment
from handful.transform.augment.default import picture
from handful.transform.inputs import SingleInput
from handful.transform.pipeline import Pipeline
from handful.transform.steps.numbers import ScaleImage

EXTRAS = "extras.json"
DETAILED = ("classification", "multilabel", "regression", "several")
CLASSES = 1000  # with more classes a matrix says little and its file is large


@part("the report")
def write(folder: Path, t: Training) -> str | None:
    """Collect and write `extras.json` and `augmented.png` to the run folder, before the page is written.

    Never fails a run that has been trained: returns a sentence where something could not be collected, else None.
    """
    try:
        classes = t.pipeline.of_classes if t.pipeline.several else t.pipeline.classes or ()
        known = t.pipeline.task in DETAILED and len(classes) <= CLASSES
        if t.valid is not None and t.held_out is not None:
            rows = len(t.valid.source)
            with buffers_kept(t.objective.model):
                found = evaluate(t.objective, t.pipeline, t.valid, t.held_out) if known else Evaluation("", {}, rows)
            files.write_json(folder / EXTRAS, found.as_json())
        pixels = augmented(t.batches, t.pipeline)
        if pixels is not None:
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            with files.atomic(folder / "augmented.png") as temporary:
                image.save(temporary, "PNG", optimize=True)
    except (Exception, KeyboardInterrupt) as error:  # a picture is not worth a trained model
        return f"the report lacks a picture: {type(error).__name__}: {error}".rstrip(": ")
    return None


def augmented(batches: Batches, pipeline: Pipeline) -> NDArray[np.uint8] | None:
    """A grid of the first training pictures (or spectrograms), plain above and as four epochs see them below.

    uint8 [C, height, width]; None where nothing is augmented or the rows are not pictures.
    """
    augment = next((transform for transform in batches.transforms if isinstance(transform, Augment)), None)
    if augment is None or pipeline.inputs.kind not in ("image", "audio"):
        return None
    source = batches.source
    batch = source.take(spread_rows(len(source), 8))
    for transform in batches.transforms[: batches.transforms.index(augment)]:
        batch = transform(batch)
    steps = pipeline.input.steps if isinstance(pipeline.input, SingleInput) else ()
    scale = next((step for step in steps if isinstance(step, ScaleImage)), None)
    in_bytes = all(pipeline.columns[name].dtype in ("uint8", "bytes") for name in pipeline.uses)
    mean = std = None
    if in_bytes and scale is not None and scale.mean is not None and scale.std is not None:
        mean, std = scale.mean * 255, scale.std * 255
    true_colours = mean is not None and std is not None and float((mean + 2 * std).max()) >= DARK
    grid: NDArray[np.uint8] = (
        picture(augment, batch, mean=mean, std=std) if true_colours else picture(augment, batch)
    ).numpy()
    return grid


def read(folder: Path | None) -> tuple[Evaluation | None, list[Markup]]:
    """(how the run does on the held-out rows, pictures) for the page of the run in a folder; what is not there, or
    damaged, is left out."""
    found: Evaluation | None = None
    pictures: list[Markup] = []
    if folder is None:
        return found, pictures
    with suppress(HandfulError, KeyError, TypeError, ValueError):
        found = Evaluation.from_json(files.read_json(folder / EXTRAS))
    with suppress(OSError, ValueError), Image.open(files.a_file(folder / "augmented.png")) as image:
        pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        title = "Augmented training rows: as they are, and as the model sees them in four epochs"
        pictures.append(picture_grid(pixels[None], ["first line: as they are"], title=title))
    return found, pictures
