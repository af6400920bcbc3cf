"""Logs are events with fields, not prose: lines of `key=value` for people on a terminal, JSON for everything else.

Times are RFC 3339 in UTC with milliseconds. Bytes never appear: in this program they are users' keys and values, and only their
length is told. A line that cannot be written is dropped, because a full disk or a closed pipe must not stop a replica.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import IO, Any, Final, TextIO, get_args

import structlog
from structlog.typing import FilteringBoundLogger

from ravel_node.config import LoggingConfig
from ravel_node.raft import events
from ravel_node.raft.types import ConfState

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_LEVEL_OF: Final[dict[type[object], int]] = {
    events.SafetyEvent: logging.ERROR,
    events.SteppedDown: logging.WARNING,
    events.TransferAborted: logging.WARNING,
    events.ElectionRefused: logging.DEBUG,
    events.PeerUnreachable: logging.DEBUG,  # every failed attempt to reach a peer that is down; the transport warns once
    events.RequestDropped: logging.DEBUG,
    events.SnapshotIgnored: logging.DEBUG,
}
"""Levels of raft events; the others are told at INFO."""

_COLOURS: Final = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f]+")


def _shape(kind: type[Any]) -> tuple[str, tuple[str, ...]]:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
    return f"raft.{name}", tuple(one.name for one in fields(kind))


_SHAPE_OF: Final[dict[type[object], tuple[str, tuple[str, ...]]]] = {kind: _shape(kind) for kind in get_args(events.RaftEvent)}
"""The name that each event of the core is logged under, and its fields."""


def setup_logging(config: LoggingConfig, *, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Make structlog, and the logging of libraries, write to `stream` (default: stderr). Called once, before the first event."""
    out = sys.stderr if stream is None else stream
    on_terminal = out.isatty()
    as_json = config.log_format == "json" or (config.log_format == "auto" and not on_terminal)
    coloured = on_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    level = LEVELS[config.log_level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_time,
            structlog.processors.format_exc_info,
            _plain_values,
            _to_json if as_json else _ColouredText() if coloured else _to_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(max(level, logging.WARNING))


def event_line(log: FilteringBoundLogger, event: events.RaftEvent) -> None:
    """Log an event of the core: `RoleChanged(role, term)` becomes `raft.role_changed role=leader term=7`."""
    level = _LEVEL_OF.get(type(event), logging.INFO)
    if log.is_enabled_for(level):
        name, field_names = _SHAPE_OF[type(event)]
        log.log(level, name, **{field_name: getattr(event, field_name) for field_name in field_names})


# --- processors: each takes logger, method name and the event's fields


def _add_time(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _plain_values(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first; every value something that JSON can say."""
    head = {key: event.pop(key) for key in ("time", "level", "event")}
    return head | {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> str | int | float | bool | None:
    match value:
        case Enum():
            return value.name.lower()
        case None | str() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case ConfState():
            return _membership(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return " ".join(f"{one.name}={_plain(getattr(value, one.name))}" for one in fields(value))
        case tuple() | list() | set() | frozenset():
            return ",".join(str(_plain(item)) for item in value)
        case _:
            return str(value)


def _membership(conf: ConfState) -> str:
    """The usual notation: `(1 2 3)&&(1 2 4) learners=(5)`."""
    text = f"({_ids(conf.voters)})" + (f"&&({_ids(conf.voters_outgoing)})" if conf.voters_outgoing else "")
    for name, ids in (("learners", conf.learners), ("learners_next", conf.learners_next)):
        text += f" {name}=({_ids(ids)})" if ids else ""
    return text


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))


def _to_json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _to_text(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return _text(event, event["level"])


def _text(event: MutableMapping[str, Any], shown_level: str) -> str:
    trace = event.pop("exception", None)
    padding = " " * (7 - len(event["level"]))
    words = [f"{key}={_word(value)}" for key, value in event.items() if key not in ("time", "level", "event")]
    line = " ".join([event["time"], shown_level + padding, _word(event["event"]), *words])
    return f"{line}\n{trace}" if trace else line


def _word(value: object) -> str:
    """Quoted where it would not read as one word: no value can forge a field, a line or a colour."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _ColouredText:
    """The same, the level in colour."""

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> str:
        level: str = event["level"]
        colour = _COLOURS.get(level)
        return _text(event, f"\x1b[{colour}m{level}\x1b[0m" if colour else level)


# --- where lines go


class _Lines:
    """The last link of structlog's chain: writes a finished line at once."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # full disk, closed pipe, closed file
            return

    debug = info = warning = error = critical = log = msg


_ENDED_TWICE: Final = "ExecuteBatchError"
"""What gRPC raises, and reports as an error of the server, when it ends a call whose caller has left at that moment."""


class _FromLibraries(logging.Handler):
    """Gives the warnings of asyncio, gRPC and others the form of our own."""

    def emit(self, record: logging.LogRecord) -> None:
        log: FilteringBoundLogger = structlog.get_logger()
        level = max(logging.DEBUG, min(logging.CRITICAL, record.levelno // 10 * 10))  # structlog has no levels between
        if record.exc_info and record.exc_info[0] is not None and record.exc_info[0].__name__ == _ENDED_TWICE:
            level = logging.DEBUG
        log.log(level, "library.logged", library=record.name, message=record.getMessage(), exc_info=record.exc_info or None)
