"""Sequences of labels without times: decoding of CTC outputs, and the edit distance that scores it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BLANK = 0
CERTAIN = -100.0  # e^-100 counts for nothing next to e^0

Beam = dict[tuple[int, ...], tuple[float, float]]  # a prefix -> log p of ending in a blank, in a label


def only_valid(output: Any) -> Any:
    """Logits [m, T, C + 1] of a pair (logits, frames of each row [m]), certain to be blank after a row's frames;
    anything else is returned as it is.

    >>> only_valid((torch.zeros(1, 2, 3), torch.tensor([1])))[0, 1].tolist()
    [0.0, -100.0, -100.0]
    """
    match output:
        case (Tensor() as logits, Tensor() as lengths) if logits.dim() == 3 and lengths.shape == logits.shape[:1]:
            over = torch.arange(logits.shape[1], device=logits.device) >= lengths.to(logits.device)[:, None]
            return torch.where(over[:, :, None], blank(logits), logits)
    return output


def blank(like: Tensor) -> Tensor:
    """The logits [C + 1] of a frame that is certain to be blank, with the size, dtype and device of `like`."""
    row = like.new_full((like.shape[-1],), CERTAIN)
    row[BLANK] = 0
    return row


def join(parts: list[Tensor]) -> Tensor:
    """Outputs [m, T, C + 1] of several batches as one; those with fewer frames go on with blanks."""
    longest = max(part.shape[1] for part in parts)
    frame = blank(parts[0])
    return torch.cat([torch.cat([p, frame.expand(len(p), longest - p.shape[1], -1)], dim=1) for p in parts])


def greedy(logits: Tensor) -> Tensor:
    """The best path without repeats and blanks: logits [m, T, C + 1] -> ids int64 [m, L], padded with 0.

    Graves et al. 2006, section 3.2, "best path decoding"; L is the longest row's number of labels, at least 1.

    >>> path = torch.tensor([[0, 2, 2, 0, 2, 1], [3, 3, 0, 0, 0, 0]])
    >>> greedy(torch.nn.functional.one_hot(path).float()).tolist()
    [[2, 2, 1], [3, 0, 0]]
    """
    path = logits.argmax(-1)
    kept = path != BLANK
    kept[:, 1:] &= path[:, 1:] != path[:, :-1]
    return compact(path, kept)


def beam_search(logits: Tensor, width: int = 16) -> Tensor:
    """The likeliest labels, not the likeliest path: logits [m, T, C + 1] -> ids int64 [m, L], padded with 0.

    Prefix search with a beam (Graves et al. 2006, section 3.2; Hannun et al. 2014, arXiv:1408.2873, algorithm 1 without
    a language model): the probability of a prefix is summed over the paths that give it, and after each frame the
    `width` likeliest are kept. With a beam that nothing falls out of it is exact. About T * width * C steps of Python
    per row: for decoding, not for training.

    >>> p = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]])     # no label: 0.36; one: 0.4 * 0.6 + 0.6 * 0.4 + 0.4 * 0.4 = 0.64
    >>> greedy(p.log()).tolist(), beam_search(p.log()).tolist()
    ([[0]], [[1]])
    """
    return _padded([_likeliest(row, width) for row in logits.detach().cpu().double().log_softmax(-1).tolist()])


def _padded(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """int64 [m, longest row's length, at least 1], padded with 0."""
    longest = max([1, *map(len, rows)])
    padded = [[*row, *[0] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).reshape(-1, longest)


def _likeliest(frames: list[list[float]], width: int) -> tuple[int, ...]:
    """The prefix of highest probability after all frames [T][C + 1] of log-probabilities."""
    beam: Beam = {(): (0.0, -math.inf)}
    for frame in frames:
        grown: Beam = {}
        for prefix, (blank, label) in beam.items():
            whole, last = _add(blank, label), prefix[-1] if prefix else BLANK
            _collect(grown, prefix, whole + frame[BLANK], label + frame[last] if prefix else -math.inf)
            for c in range(1, len(frame)):  # a label that comes twice needs a blank between
                _collect(grown, (*prefix, c), -math.inf, (blank if c == last else whole) + frame[c])
        beam = dict(sorted(grown.items(), key=lambda item: -_add(*item[1]))[:width])
    return max(beam, key=lambda prefix: _add(*beam[prefix]))


def _collect(into: Beam, prefix: tuple[int, ...], blank: float, label: float) -> None:
    before = into.get(prefix, (-math.inf, -math.inf))
    into[prefix] = _add(before[0], blank), _add(before[1], label)


def _add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def compact(ids: Tensor, kept: Tensor) -> Tensor:
    """The ids [m, T] where `kept`, moved to the front of each row and padded with 0; int64 [m, longest, at least 1]."""
    place = kept.cumsum(1) - 1
    longest = max(1, int(kept.sum(1).max())) if len(ids) else 1
    out = ids.new_zeros((len(ids), longest + 1))  # the last place takes what is dropped
    out.scatter_(1, torch.where(kept, place, longest), torch.where(kept, ids, 0))
    return out[:, :longest]


def edit_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Levenshtein distance of each pair of rows, int64 [m]: ids [m, H] and [m, R], padded with 0 behind.

    Wagner and Fischer 1974, one row of the table for all pairs at a time; a run of insertions is a running minimum.

    >>> edit_distance(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 3], [0, 0]])).tolist()
    [1, 1]
    """
    m, width = found.shape
    lengths, goals = (found != 0).sum(1), (wanted != 0).sum(1)
    steps = torch.arange(width + 1, device=found.device)
    row = steps.expand(m, -1)
    rows = [row]
    for r in range(wanted.shape[1]):
        replaced = row[:, :-1] + (found != wanted[:, r : r + 1])
        best = torch.cat([row[:, :1] + 1, torch.minimum(row[:, 1:] + 1, replaced)], dim=1)
        row = (best - steps).cummin(1).values + steps
        rows.append(row)
    table = torch.stack(rows, 1)
    each = torch.arange(m, device=found.device)
    return table[each, goals, lengths]


def words(ids: Tensor, space: int) -> Tensor:
    """Rows of character ids to rows of word ids: the runs between spaces, as hashes that are equal for equal words.

    ids: int64 [m, L] padded with 0; returns int64 [m, W] padded with 0. Two different words share a hash about once in
    2^61 pairs.
    """
    return _padded([_hashes(row, space) for row in ids.tolist()], ids.device)


def _hashes(row: list[int], space: int) -> list[int]:
    found, value = [], 7  # 7: no label yet
    for i in [*row, space]:
        if i == space and value != 7:
            found.append(value or 1)
            value = 7
        elif i not in (space, 0):
            value = (value * 1_000_003 + i) % ((1 << 61) - 1)
    return found
