"""Text from a language model, one token at a time; every draw has an address: (seed, row, position)."""

import numpy as np
import torch
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.training.objective import Objective
from handful.transform.pipeline import Pipeline
from handful.transform.steps.text import PAD, UNKNOWN


def sample(
    pipeline: Pipeline,
    objective: Objective,
    prompt: str = "\n",
    length: int = 300,
    temperature: float = 0.8,
    *,
    top: int | None = None,
    seed: int = 0,
) -> str:
    """`length` tokens that go on from the prompt, as text; the prompt itself is not in it.

    temperature: 0 takes the likeliest token every time, 1 draws as the model believes, more varies more; top: draw only
    among this many likeliest tokens. The same seed gives the same text. The model sees as many tokens back as it was
    trained with. Raises HandfulError for a run that is not of a language model, and for arguments out of range.
    """
    tokenizer, window = pipeline.tokenizer, pipeline.shape
    if pipeline.task != "language" or window[0] is None:
        raise HandfulError(f"only a language model continues text; this run's task is {pipeline.task}")
    if tokenizer is None:
        raise HandfulError("this run learned from token ids, for which it has no text: call run.model on ids of yours")
    if length < 0 or not temperature >= 0 or (top is not None and top < 1):
        raise HandfulError(f"length and temperature must be at least 0 and top 1, not {length}, {temperature}, {top}")
    ids = tokenizer.encode([prompt])[0].tolist() if prompt else []
    ids = ids or [UNKNOWN]  # what nothing starts from
    start = len(ids)
    uniform = keys.uniform("sample", seed, np.zeros(length, np.int64), np.arange(length), 1)[:, 0]
    model, device = objective.model, objective.device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for draw in uniform.tolist():
                x = torch.tensor([ids[-window[0] :]], device=device)
                output = objective.forward(Batch({"x": x}, np.zeros(1, np.int64)))
                assert isinstance(output, Tensor)
                logits = output[0, -1]
                ids.append(_draw(logits.double().cpu(), temperature, top, draw))
    finally:
        model.train(was_training)
    return tokenizer.text(ids[start:])


def _draw(logits: Tensor, temperature: float, top: int | None, uniform: float) -> int:
    """The id where the cumulative probability passes `uniform`; never padding or the unknown token."""
    logits[[PAD, UNKNOWN]] = -torch.inf
    if temperature == 0:
        return int(logits.argmax())
    if top is not None and top < len(logits):
        logits[logits < logits.topk(top).values[-1]] = -torch.inf
    p = (logits / temperature).softmax(0)
    cumulative = p.cumsum(0) / p.sum()
    return int(torch.searchsorted(cumulative, uniform, right=True).clamp(max=int(p.nonzero()[-1])))
