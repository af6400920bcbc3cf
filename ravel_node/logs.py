"""The form of log lines: events with fields, as `key=value` for people on a terminal and as JSON for everything else.

Times are RFC 3339 in UTC with milliseconds. Bytes never appear: in this program they are users' keys and values, and only their
length is shown. `log_output` carries the events to stderr, and `log_limiter` counts those that repeat.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, get_args

import structlog
from structlog.typing import FilteringBoundLogger

from ravel_node.config import LoggingConfig
from ravel_node.log_limiter import Event, LogRateLimiter, Plain
from ravel_node.log_output import LogOutput, Render, timestamp
from ravel_node.raft import events
from ravel_node.raft.types import ConfState

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

NEVER_LIMITED: Final = frozenset({"gateway.request", "daemon.signal_received", "gateway.signal_received"})
"""Events that an operator has asked for, or has caused and looks for in the log."""

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


def setup_logging(config: LoggingConfig, output: LogOutput, *, environ: Mapping[str, str] = os.environ) -> None:
    """Make structlog, and the logging of libraries, write to `output`. Called once, before the first event."""
    level = LEVELS[config.log_level]
    # Whoever asks for debug events wants to see each of them.
    limiter = None if level <= logging.DEBUG else LogRateLimiter(every=NEVER_LIMITED)
    output.configure(_renderer(config, output.on_terminal, environ), limiter)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_time,
            structlog.processors.format_exc_info,
            _plain_values,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Events(output),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(max(level, logging.WARNING))


def _renderer(config: LoggingConfig, on_terminal: bool, environ: Mapping[str, str]) -> Render:
    if config.log_format == "json" or (config.log_format == "auto" and not on_terminal):
        return _json
    coloured = on_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return _coloured_text if coloured else _plain_text


def event_line(log: FilteringBoundLogger, event: events.RaftEvent) -> None:
    """Log an event of the core: `RoleChanged(role, term)` becomes `raft.role_changed role=leader term=7`."""
    level = _LEVEL_OF.get(type(event), logging.INFO)
    if log.is_enabled_for(level):
        name, field_names = _SHAPE_OF[type(event)]
        log.log(level, name, **{field_name: getattr(event, field_name) for field_name in field_names})


# --- processors: each takes logger, method name and the event's fields


def _add_time(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = timestamp()
    return event


def _plain_values(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Plain]:
    """Time, level and event first; every value something that JSON can say, and that nobody changes later."""
    head = {key: event.pop(key) for key in ("time", "level", "event")}
    return head | {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> Plain:
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


# --- lines, on the log thread


def _json(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False)


def _plain_text(event: Event) -> str:
    return _text(event, str(event["level"]))


def _coloured_text(event: Event) -> str:
    """The same, the level in colour."""
    level = str(event["level"])
    colour = _COLOURS.get(level)
    return _text(event, f"\x1b[{colour}m{level}\x1b[0m" if colour else level)


def _text(event: Event, shown_level: str) -> str:
    padding = " " * (7 - len(str(event["level"])))
    words = [f"{key}={_word(value)}" for key, value in event.items() if key not in ("time", "level", "event", "exception")]
    line = " ".join([str(event["time"]), shown_level + padding, _word(event["event"]), *words])
    return f"{line}\n{trace}" if (trace := event.get("exception")) else line


def _word(value: object) -> str:
    """Quoted where it would not read as one word: no value can forge a field, a line or a colour."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


# --- where events go


class _Events:
    """The last link of structlog's chain."""

    def __init__(self, output: LogOutput) -> None:
        self._output = output

    def msg(self, /, **event: Plain) -> None:
        self._output.event(event)

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
