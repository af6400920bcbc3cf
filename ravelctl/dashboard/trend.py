"""Trends in a line of blocks, on a scale that starts at zero and is written beside. Pure.

A scale that follows its values makes a calm cluster look as wild as a sick one: ours goes in few large steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ravelctl.dashboard.figures import short
from ravelctl.dashboard.text import Line, Span, Tone

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = "·"  # where the value was not known


def scale(values: Sequence[float | None], least: float) -> float:
    """The top of the scale: the first of 1, 2, 4, 10, 20, 40, ... times `least` that no value passes."""
    top = max((value for value in values if value is not None), default=0.0)
    found, step = least, 0
    while found < top:
        found *= (2.0, 2.0, 2.5)[step % 3]
        step += 1
    return found


def blocks(values: Sequence[float | None], width: int, top: float) -> str:
    """The newest `width` values, newest right; blank where there is no history yet."""
    shown = list(values[-width:]) if width > 0 else []
    marks = (_GAP if value is None else _BLOCKS[min(len(_BLOCKS) - 1, int(value / top * len(_BLOCKS)))] for value in shown)
    return "".join(marks).rjust(width)


def trend(title: str, values: Sequence[float | None], width: int, least: float, unit: str) -> Line:
    """`title ▁▂▃ [0..4ms]` in exactly `width` characters, or nothing where there is no room."""
    top = scale(values[-width:], least)
    label = f" [0..{short(top)}{unit}]"
    room = width - len(title) - 1 - len(label)
    if room < 4:
        return ()
    return (Span(f"{title} ", Tone.DIM), Span(blocks(values, room, top), Tone.TREND), Span(label, Tone.DIM))


def plot(values: Sequence[float | None], width: int, rows: int, top: float, warn: float | None) -> list[Line]:
    """A chart of `rows` lines with its scale at the left; a dotted line stands at `warn` if it is on the scale."""
    room = width - 7
    if room < 8 or rows < 2:
        return []
    newest = values[-room:]
    shown: list[float | None] = [*[None] * (room - len(newest)), *newest]
    lines: list[Line] = []
    for number in range(rows):
        low, high = top * (rows - 1 - number) / rows, top * (rows - number) / rows
        cells = "".join(_plot_cell(value, low, high, last=number == rows - 1) for value in shown)
        guard = warn is not None and low < warn <= high
        if guard:
            cells = cells.replace(" ", "┈")
        label = short(high) if number == 0 else "0" if number == rows - 1 else short(warn or 0) if guard else ""
        axis = "┼" if number == rows - 1 else "┤" if label else "│"
        lines.append((Span(f"{label:>5}{axis} ", Tone.DIM), Span(cells, Tone.WARN if guard else Tone.TREND)))
    return lines


def _plot_cell(value: float | None, low: float, high: float, *, last: bool) -> str:
    if value is None:
        return _GAP if last else " "
    if value <= low:
        return "▁" if last else " "
    share = min(1.0, (value - low) / (high - low))
    return _BLOCKS[min(len(_BLOCKS) - 1, int(share * len(_BLOCKS)))]
