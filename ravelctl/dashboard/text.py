"""Lines of text with a tone for each part: what screens paint in colours and what a pipe gets as it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Tone(StrEnum):
    """What a piece of text is, not how it looks: `ravel.tcss` says that."""

    PLAIN = "plain"
    DIM = "dim"  # of lesser weight, or of the past
    TITLE = "title"
    KEY = "key"
    GOOD = "good"
    WARN = "warn"
    CRIT = "crit"
    LEAD = "lead"
    TREND = "trend"
    BANNER = "banner"


class Span(NamedTuple):
    text: str
    tone: Tone = Tone.PLAIN


Line = tuple[Span, ...]
BLANK: Line = ()


def line(*parts: Span | str) -> Line:
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def plain(spans: Line) -> str:
    return "".join(span.text for span in spans)


def width(spans: Line) -> int:
    return sum(len(span.text) for span in spans)


def fitted(spans: Line, columns: int) -> Line:
    """No wider than `columns`: what is too long loses its end, marked."""
    if width(spans) <= columns:
        return spans
    room = max(0, columns - 1)
    kept: list[Span] = []
    for span in spans:
        if room <= 0:
            break
        kept.append(Span(span.text[:room], span.tone))
        room -= len(span.text)
    return (*kept, Span("…"[:columns], Tone.DIM))


def joined(pieces: Iterable[Line], columns: int, gap: str = "   ") -> Line:
    """As many of the pieces as fit, in their order, with a gap between: whole ones only."""
    found: list[Span] = []
    room = columns
    for piece in pieces:
        needed = width(piece) + (len(gap) if found else 0)
        if not piece or needed > room:
            continue
        if found:
            found.append(Span(gap))
        found += piece
        room -= needed
    return tuple(found)


def spread(left: Line, right: Line, columns: int) -> Line:
    """One at the left edge, one at the right; the right one is kept whole."""
    room = columns - width(right)
    if room <= 0:
        return fitted(right, columns)
    shown = fitted(left, room - 1)
    return (*shown, Span(" " * (room - width(shown))), *right)
