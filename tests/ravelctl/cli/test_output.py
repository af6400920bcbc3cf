from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
import yaml

from ravelctl.cli.output import (
    U64,
    Table,
    View,
    age_text,
    columns,
    emit,
    plain_mapping,
    plain_text,
    printable,
    rfc3339,
    size_text,
)
from ravelctl.config.settings import Color, Output, Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


TABLE = Table(columns("NAME", "LAG", "+ID"), (("n1", "0", "1"), ("longer", "-", "22")), above=("head",), below=("foot",))


def shown(view: View, **settings: object) -> str:
    stream = io.StringIO()
    emit(view, Settings(**settings), stream)  # type: ignore[arg-type]
    return stream.getvalue()


def test_a_piped_table_is_plain_and_aligned() -> None:
    assert plain_text(TABLE) == "head\nNAME    LAG\nn1      0\nlonger  -\nfoot\n"
    assert plain_text(TABLE, wide=True) == "head\nNAME    LAG  ID\nn1      0    1\nlonger  -    22\nfoot\n"


def test_a_table_without_rows_has_no_head() -> None:
    assert plain_text(Table(columns("A"), (), below=("none",))) == "none\n"


def test_a_terminal_gets_colour_unless_told_otherwise() -> None:
    for color, coloured in ((Color.AUTO, True), (Color.NEVER, False)):
        stream = Terminal()
        table = Table(columns("NAME"), (("unreachable",),))
        emit(View("X", {}, table), Settings(color=color), stream)
        assert ("\x1b[31m" in stream.getvalue()) is coloured
        assert "unreachable" in stream.getvalue()


def test_a_pipe_gets_colour_only_when_asked() -> None:
    view = View("X", {}, Table(columns("NAME"), (("unreachable",),)))
    assert "\x1b[" not in shown(view)
    assert "\x1b[31m" in shown(view, color=Color.ALWAYS)


def test_json_has_a_version_and_large_numbers_as_strings() -> None:
    moment = datetime(2026, 3, 2, 11, 4, 11, tzinfo=timezone(timedelta(hours=1)))
    view = View("Thing", {"index": U64(2**63), "count": 3, "at": moment, "rows": [{"key": b"\xff"}]})
    told = json.loads(shown(view, output=Output.JSON))
    assert told == {
        "apiVersion": "ravel/v1",
        "kind": "Thing",
        "index": str(2**63),
        "count": 3,
        "at": "2026-03-02T10:04:11Z",
        "rows": [{"key": "/w==", "key_encoding": "base64"}],
    }
    assert yaml.safe_load(shown(view, output=Output.YAML)) == told


def test_text_stays_text_and_only_other_bytes_are_marked() -> None:
    assert plain_mapping({"key": "schlüssel".encode(), "value": b""}) == {"key": "schlüssel", "value": ""}


def test_names_stand_one_a_line() -> None:
    assert shown(View("X", {}, names=("a", "b")), output=Output.NAME) == "a\nb\n"


def test_milliseconds_are_kept_where_there_are_some() -> None:
    assert rfc3339(datetime(2026, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)) == "2026-01-01T00:00:00.005Z"


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"a b", "a b"), (b"a\nb", "a\\nb"), (b"\xff\x00", "\\xff\\x00"), (b"\x1b[31m", "\\x1b[31m"), ("ü".encode(), "ü")],
)
def test_nothing_that_moves_a_cursor_is_printed(raw: bytes, text: str) -> None:
    assert printable(raw) == text
    assert printable(b"abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (212 << 20, "212MiB"), (4 << 30, "4GiB"), (3 << 50, "3072TiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.041, "41ms"), (1.9, "1.9s"), (185, "3m05s"), (11520, "3h12m"), (187200, "2d04h")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
