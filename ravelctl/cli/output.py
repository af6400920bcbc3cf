"""Commands return a `View`; this prints it.

A view holds the same facts twice: `data` for programs, complete and typed, and `body` for people. What is piped is plain aligned
text without colour, boxes or anything that depends on a terminal, so that it is the same each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING, Any, Final

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.config.settings import Color, Output, Settings

if TYPE_CHECKING:
    from datetime import datetime

API_VERSION: Final = "ravel/v1"
ABSENT: Final = "-"
_GAP: Final = "  "
_PIPED_WIDTH: Final = 10_000  # for --color always without a terminal: wide enough that nothing is cut


class U64(int):
    """An integer that may pass 2**53, where JSON readers lose digits: it is written as a string."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    wide: bool = False  # shown with -o wide only


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, one for each column; lines above and below stand outside of it. Cells hold printable text only."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()

    def shown(self, *, wide: bool) -> tuple[list[str], list[list[str]]]:
        """Titles and rows without the columns that only -o wide shows."""
        kept = [number for number, column in enumerate(self.columns) if wide or not column.wide]
        return [self.columns[n].title for n in kept], [[row[n] for n in kept] for row in self.rows]


@dataclass(frozen=True, slots=True)
class View:
    """What a command found. `body` is a table, a text of whole lines, or bytes that are written as they are."""

    kind: str
    data: Mapping[str, Any]
    body: Table | str | bytes = ""
    names: tuple[str, ...] = ()  # what -o name prints, one a line
    code: int = ExitCode.DONE  # an `ExitCode`, but for --format nagios
    notes: tuple[str, ...] = field(default=())  # prose for stderr, unless -q
    silent: bool = False  # all was printed while it came


def columns(*titles: str) -> tuple[Column, ...]:
    """Columns from titles; one that begins with '+' is shown with -o wide only."""
    return tuple(Column(title.removeprefix("+"), wide=title.startswith("+")) for title in titles)


def emit(view: View, settings: Settings, stream: IO[str], *, one_line: bool = False) -> None:
    """Print a view as `-o` asks. `one_line` is for repeated JSON: one object a line."""
    if view.silent:
        return
    match settings.output:
        case Output.JSON:
            stream.write(json_text(document(view), one_line=one_line) + "\n")
        case Output.YAML:
            stream.write(_yaml_text(document(view)))
        case Output.NAME:
            stream.writelines(f"{name}\n" for name in view.names)
        case _:
            _emit_body(view.body, settings, stream)
    stream.flush()


def _emit_body(body: Table | str | bytes, settings: Settings, stream: IO[str]) -> None:
    if isinstance(body, bytes):
        stream.flush()
        stream.buffer.write(body)  # type: ignore[attr-defined]  # every text stream that is handed in has one
    elif isinstance(body, str):
        stream.write(body if not body or body.endswith("\n") else body + "\n")
    elif stream.isatty() or settings.color is Color.ALWAYS:
        _emit_for_terminal(body, settings, stream)
    else:
        stream.write(plain_text(body, wide=settings.output is Output.WIDE))


def plain_text(table: Table, *, wide: bool = False) -> str:
    """Aligned columns, two blanks apart, no blanks at the ends of lines."""
    titles, rows = table.shown(wide=wide)
    lines = list(table.above)
    if rows:
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        lines += [_aligned(cells, widths) for cells in (titles, *rows)]
    lines += table.below
    return "".join(f"{line}\n" for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _emit_for_terminal(table: Table, settings: Settings, stream: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    on_terminal = stream.isatty()
    console = Console(
        file=stream,
        force_terminal=True,
        no_color=settings.color is Color.NEVER,
        width=None if on_terminal else _PIPED_WIDTH,
        highlight=False,
    )
    titles, rows = table.shown(wide=settings.output is Output.WIDE)
    for line in table.above:
        console.print(Text(line, style=_style_of(line)), soft_wrap=True)
    if rows:
        grid = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for title in titles:
            grid.add_column(title, overflow="ellipsis", no_wrap=True)
        for row in rows:
            grid.add_row(*(Text(cell, style=_style_of(cell)) for cell in row))
        console.print(grid)
    for line in table.below:
        console.print(Text(line), soft_wrap=True)


_STYLES: Final = {
    "HEALTHY": "green",
    "DEGRADED": "yellow",
    "NO LEADER": "red",
    "NO QUORUM": "red",
    "unreachable": "red",
    "removed": "red",
    "snapshot": "yellow",
    "probe": "yellow",
}


def _style_of(text: str) -> str:
    return next((style for word, style in _STYLES.items() if word in text), "")


# --- for programs


def document(view: View) -> dict[str, Any]:
    """The view as JSON-compatible values, with the version of this form first."""
    return {"apiVersion": API_VERSION, "kind": view.kind, **plain_mapping(view.data)}


def plain_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-compatible values. Bytes that are not UTF-8 become base64, and a field `<name>_encoding` beside them says so."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, bytes):
            try:
                plain[name] = value.decode()
            except UnicodeDecodeError:
                from base64 import b64encode

                plain[name] = b64encode(value).decode()
                plain[f"{name}_encoding"] = "base64"
        else:
            plain[name] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    from datetime import datetime

    if isinstance(value, U64):
        return str(int(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain_mapping({part.name: getattr(value, part.name) for part in fields(value)})
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def json_text(value: Any, *, one_line: bool = False) -> str:
    import json

    return json.dumps(value, indent=None if one_line else 2, ensure_ascii=False)


def _yaml_text(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, explicit_start=True)
    return text


# --- for people


def rfc3339(moment: datetime) -> str:
    """In UTC, to the second, or to the millisecond where there is one."""
    from datetime import UTC

    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds").replace("+00:00", "Z")


def printable(raw: bytes, limit: int | None = None) -> str:
    """One line of text: what cannot be printed is escaped, what is longer than `limit` characters is cut and marked."""
    text = raw.decode(errors="backslashreplace")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def size_text(count: int) -> str:
    """Bytes in binary units, short: 212MiB, 4GiB, 1.5KiB, 17B."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{amount:.{digits}f}".removesuffix(".0") + unit


def age_text(seconds: float) -> str:
    """A span, two units at most: 41ms, 1.9s, 3m05s, 3h12m, 2d04h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def count_text(count: int, noun: str, plural: str = "") -> str:
    """`1 failure`, `2 failures`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
