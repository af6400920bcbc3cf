"""Numbers as text that fits. Pure.

No digit is ever cut off: a number that is too wide in full is written shorter with a unit (`413k`), never with fewer digits and
no unit. What is not known is `?`; what does not exist here is `-`. Neither is ever a zero.
"""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "?"
NOTHING: Final = "-"
LAST_KNOWN: Final = "~"
"""Follows a value of a replica that is down or whose frames no longer come."""
WIDTH_MIN: Final = 4
"""Every figure can be written in so many characters, marks apart."""

_STEPS: Final = ("", "k", "M", "G", "T", "P", "E")
_BYTES: Final = ("B", "K", "M", "G", "T", "P", "E")


def count(value: int, width: int = 0) -> str:
    """Grouped by thousands if that fits in `width` (0: any), else bare, else with a unit: 9,204 or 9204 or 9.2k."""
    full = f"{value:,}"
    if not width or len(full) <= width:
        return full
    bare = str(value)
    if len(bare) <= width:
        return bare
    sign = "-" if value < 0 else ""
    return sign + short(abs(value))


def difference(value: int, width: int = 0) -> str:
    """What is missing to a reference, with its sign: -9,207, +3; equal is -0."""
    if value <= 0:
        text = "-" + count(-value, max(width - 1, 1) if width else 0)
    else:
        text = "+" + count(value, max(width - 1, 1) if width else 0)
    return text


def short(value: float) -> str:
    """At most four characters, three figures and a unit of thousands: 0, 7, 950, 8.1k, 41k, 413k, 1.3M, 18E."""
    return _scaled(value, 1000.0, _STEPS)


def size(value: int) -> str:
    """Bytes in units of 1,024, at most four characters: 0B, 9.1K, 540M, 1.2G."""
    return _scaled(float(value), 1024.0, _BYTES)


def _scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    amount, step = max(0.0, value), 0
    while step < len(units) - 1 and (round(amount) >= 1000 or amount >= base):
        amount /= base
        step += 1
    if step == 0:
        return f"{round(amount)}{units[0]}" if amount >= 1 or amount == 0 else _below_one(amount) + units[0]
    if amount < 9.95:
        return f"{amount:.1f}{units[step]}"
    return f"{round(amount)}{units[step]}"


def _below_one(amount: float) -> str:
    """A rate under one is no zero: .4, and at the least .1."""
    return f"{max(amount, 0.1):.1f}".removeprefix("0") if amount < 0.95 else "1"


def micros(value: int) -> str:
    """A duration in microseconds: .4ms, 1.8ms, 19ms, 240ms, 1.2s, 61s, 12m."""
    if value < 950:
        return f".{max(1, round(value / 100))}ms" if value else "0ms"
    if value < 9_950:
        return f"{max(1.0, value / 1000):.1f}ms"
    if value < 999_500:
        return f"{round(value / 1000)}ms"
    return span(value / 1_000_000)


def span(seconds: float) -> str:
    """A time since: 12ms, 9.2s, 12s, 18m, 3h, 6d, at most five characters below a thousand years."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 99.5:
        return f"{round(seconds)}s"
    for unit, length_s in (("m", 60.0), ("h", 3600.0), ("d", 86400.0)):
        amount = int(seconds // length_s)
        if amount < (100 if unit != "h" else 48) or unit == "d":
            return f"{short(amount)}{unit}" if amount >= 1000 else f"{amount}{unit}"
    return NOTHING


def lag_seconds(millis: int) -> str:
    """The column LAG-s: 0.0, 3.8, 61, 999, then with a unit: 17m, 2h."""
    seconds = millis / 1000
    if seconds < 9.95:
        return f"{seconds:.1f}"
    if seconds < 999.5:
        return str(round(seconds))
    return span(seconds)


def elided(text: str, width: int) -> str:
    """A name that is too long loses its middle, marked: names of one fleet differ at their ends."""
    if len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    tail = width // 2
    head = width - 1 - tail
    return f"{text[:head]}…{text[len(text) - tail :]}"


def clipped(text: str, width: int) -> str:
    """A sentence that is too long loses its end, marked."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[: max(0, width)]
