"""Before the first step: the ranks find out whether they are about to train one model on one set of data."""

import json
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from handful.base.errors import HandfulError, some
from handful.base.files import of_text
from handful.base.plan import Plan
from handful.base.shards import is_shard
from handful.batches.batches import Batches
from handful.data.base import Batch
from handful.training.process.messages import Messages
from handful.transform.seen import row_hashes

OWN = {"device", "threads", "step_times", "data"}  # may differ by rank: the data are known by their fingerprint
WORDS = {"fingerprint": "other data", "rows": "data of another length"}


def same_start(messages: Messages, plan: Plan, model: nn.Module, step: int, others: Iterable[Tensor] = ()) -> None:
    """Compare plan, data, shapes and step by one hash, and give all ranks rank 0's weights, buffers and other tensors.

    Raises HandfulError, on every rank alike, with what differs.
    """
    if messages.size == 1:
        return
    mine = {name: str(choice.value) for name, choice in plan.choices.items() if name not in OWN}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    mine |= {f"the shape of {name}": f"{list(t.shape)} {str(t.dtype)[6:]}" for name, t in named.items()}
    text = json.dumps(mine | {"the step to go on from": str(step)}, sort_keys=True)
    if len(set(messages.gather(of_text(text)))) > 1:
        raise HandfulError(difference([json.loads(said) for said in messages.gather(text)]))
    messages.spread(t for t in [*named.values(), *others] if not is_shard(t))


def same_rows(messages: Messages, batches: Batches, model: nn.Module) -> None:
    """Compare the rows that the ranks are about to share, by their number and some of them, and the weights. Raises
    HandfulError, on every rank alike."""
    if messages.size == 1:
        return
    n = len(batches.source)
    rows = np.unique(np.linspace(0, n - 1, 64).astype(np.int64)) if n else np.arange(0)
    batch = Batch(batches.source.read(rows), rows)
    for transform in batches.transforms if n else ():
        batch = transform(batch)
    weights = [float(p.detach().double().sum()) for p in model.parameters()]
    said = messages.gather(json.dumps([weights, n, row_hashes(batch).tolist()]))
    for rank, other in enumerate(said):
        if other != said[0]:
            what = "another trained model" if json.loads(other)[0] != json.loads(said[0])[0] else "other data"
            raise HandfulError(f"rank {rank} has {what} than rank 0; all ranks must be given the same")


def difference(said: list[Mapping[str, str]]) -> str:
    """What the first rank that is unlike rank 0 has otherwise.

    >>> difference([{"lr": "0.1", "seed": "0"}, {"lr": "0.2", "seed": "0"}])
    'rank 1 has another plan than rank 0: lr is 0.2 and not 0.1; all ranks must be given the same'
    """
    first = said[0]
    rank, other = next((r, mine) for r, mine in enumerate(said) if mine != first)
    names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
    if known := [WORDS[name] for name in names if name in WORDS]:
        return f"rank {rank} has {known[0]} than rank 0; all ranks must be given the same"
    words = [f"{name} is {other.get(name, 'missing')} and not {first.get(name, 'missing')}" for name in names]
    return f"rank {rank} has another plan than rank 0: {some(words)}; all ranks must be given the same"
