"""Outputs that score classes at each place of a row: pixels of a picture, tokens of a text, frames of a sound."""


def class_axis(output: tuple[int, ...], target: tuple[int, ...]) -> int | None:
    """The axis of an output [m, ...] that holds the classes for a target [m, ...] of one class id a place: 1 where it
    stands before the places, as after convolutions, -1 behind them, as after layers over tokens; None if there is none.
    Where both would do, -1 for rows of one dimension and 1 for others.

    >>> class_axis((8, 21, 32, 32), (8, 32, 32)), class_axis((8, 40, 9), (8, 40)), class_axis((8, 10), (8, 10))
    (1, -1, None)
    """
    if len(output) != len(target) + 1 or len(target) < 2:
        return None
    first = output[:1] + output[2:] == target and output[1] > 1
    last = output[:-1] == target and output[-1] > 1
    if first and last:
        return 1 if len(target) > 2 else -1
    return 1 if first else -1 if last else None
