"""Log lines: one event a line, for people or as JSON, that no value can forge and no broken pipe can make fail."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
from structlog.typing import FilteringBoundLogger

from ravel_node.config import LoggingConfig
from ravel_node.log_output import LogOutput
from ravel_node.logs import event_line, setup_logging
from ravel_node.raft import events
from ravel_node.raft.types import ConfState, Index, MessageType, ReplicaId, Role, Term

NOW = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    """Set-up is for the whole process: give the other tests what was there before."""
    root = logging.getLogger()
    handlers, level, config = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**config)


def _log(
    use: Callable[[FilteringBoundLogger], object],
    *,
    log_format: str = "json",
    level: str = "info",
    on_terminal: bool = False,
    environ: dict[str, str] | None = None,
) -> str:
    """What is written while `use` has a logger."""
    chunks: list[bytes] = []
    output = LogOutput(chunks.append, on_terminal=on_terminal)
    setup_logging(LoggingConfig(log_format=log_format, log_level=level), output, environ=environ or {})
    use(structlog.get_logger())
    assert output.flush(60.0)
    return b"".join(chunks).decode()


def test_json_has_time_level_event_and_fields_in_order() -> None:
    line = _log(lambda log: log.warning("daemon.slow", seconds=0.5, name="n1", ok=True, why=None))
    assert line.count("\n") == 1
    event = json.loads(line)
    assert NOW.fullmatch(event.pop("time"))
    assert event == {"level": "warning", "event": "daemon.slow", "seconds": 0.5, "name": "n1", "ok": True, "why": None}
    assert list(json.loads(line)) == ["time", "level", "event", "seconds", "name", "ok", "why"]


def test_text_is_one_line_of_key_value() -> None:
    line = _log(lambda log: log.info("daemon.started", port=7400, name="n1", ok=True, none=None, path="/a b"), log_format="text")
    time, _, rest = line.partition(" ")
    assert NOW.fullmatch(time)
    assert rest == 'info    daemon.started port=7400 name=n1 ok=true none=none path="/a b"\n'


def test_no_value_can_forge_a_field_a_line_or_a_colour() -> None:
    evil = 'x y=1\n2026-01-01 error \x1b[31m"'
    line = _log(lambda log: log.info("a", name=evil), log_format="text")
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert json.loads(line.partition("name=")[2]) == evil
    assert json.loads(_log(lambda log: log.info("a", name=evil)))["name"] == evil


def test_bytes_are_never_shown() -> None:
    @dataclass(frozen=True)
    class Holder:
        key: bytes
        port: int

    def use(log: FilteringBoundLogger) -> None:
        log.info("a", key=b"secret", view=memoryview(b"secret"), many=(b"secret", 1), holder=Holder(b"secret", 2))

    line = _log(use)
    assert "secret" not in line
    event = json.loads(line)
    assert (event["key"], event["view"]) == ("<6 bytes>", "<6 bytes>")
    assert (event["many"], event["holder"]) == ("<6 bytes>,1", "key=<6 bytes> port=2")


def test_other_values_are_told_in_words() -> None:
    event = json.loads(_log(lambda log: log.info("a", role=Role.LEADER, path=Path("/d"), ids={1}, error=OSError("full"))))
    assert (event["role"], event["path"], event["ids"], event["error"]) == ("leader", "/d", "1", "full")


def test_auto_is_json_unless_someone_looks() -> None:
    assert _log(lambda log: log.info("a"), log_format="auto").startswith("{")
    assert not _log(lambda log: log.info("a"), log_format="auto", on_terminal=True).startswith("{")


@pytest.mark.parametrize(
    ("on_terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_on_a_terminal_that_wants_it(on_terminal: bool, environ: dict[str, str], coloured: bool) -> None:
    line = _log(lambda log: log.error("a"), log_format="text", on_terminal=on_terminal, environ=environ)
    assert ("\x1b[31merror\x1b[0m" in line) is coloured
    assert ("\x1b" in line) is coloured


def test_lower_levels_are_dropped() -> None:
    def use(log: FilteringBoundLogger) -> None:
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")

    lines = _log(use, level="warning").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["c", "d"]
    assert len(_log(use, level="debug").splitlines()) == 4


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_comes_with_its_traceback(log_format: str) -> None:
    def use(log: FilteringBoundLogger) -> None:
        try:
            raise ValueError("why it broke")
        except ValueError as error:
            log.error("daemon.broke", exc_info=error)

    written = _log(use, log_format=log_format)
    assert "Traceback" in written
    assert "ValueError: why it broke" in written
    assert (written.count("\n") == 1) is (log_format == "json")


def test_libraries_warn_in_the_same_form() -> None:
    def use(_: object) -> None:
        logging.getLogger("asyncio").warning("%d tasks", 3)
        logging.getLogger("asyncio").info("not told")
        logging.getLogger("grpc").log(35, "between levels")

    first, second = (json.loads(line) for line in _log(use).splitlines())
    assert (first["level"], first["event"], first["library"], first["message"]) == (
        "warning",
        "library.logged",
        "asyncio",
        "3 tasks",
    )
    assert (second["level"], second["message"]) == ("warning", "between levels")


def test_a_call_that_grpc_ends_twice_is_no_error() -> None:
    class ExecuteBatchError(Exception):
        """As gRPC's own is named."""

    def use(_: object) -> None:
        for kind in (ExecuteBatchError, ValueError):
            try:
                raise kind("8")
            except Exception:
                logging.getLogger("grpc._cython.cygrpc").exception("raised in core by servicer method")

    (told,) = _log(use).splitlines()
    assert "ValueError" in told


# --- events that repeat


def test_an_event_that_repeats_is_counted_and_the_count_is_logged() -> None:
    chunks: list[bytes] = []
    output = LogOutput(chunks.append)
    setup_logging(LoggingConfig(log_format="json"), output, environ={})
    log = structlog.get_logger()
    for _ in range(60):
        log.info("daemon.join_failed", why="no leader")
    log.info("daemon.join_failed", why="the name is taken")
    output.finish()
    assert output.flush(60.0)
    events = [json.loads(line) for line in b"".join(chunks).splitlines()]
    assert [(event["why"], event.get("repeated")) for event in events] == [
        ("no leader", None),
        ("the name is taken", None),
        ("no leader", 59),
    ]
    assert output.counts.withheld == 59


def test_every_event_is_logged_where_debug_was_asked_for() -> None:
    assert len(_log(lambda log: [log.info("a") for _ in range(60)], level="debug").splitlines()) == 60


def test_every_request_is_in_the_access_log() -> None:
    assert len(_log(lambda log: [log.info("gateway.request", path="/") for _ in range(200)]).splitlines()) == 200


# --- events of the core


def test_an_event_is_named_after_its_class() -> None:
    line = _log(lambda log: event_line(log, events.RoleChanged(Role.LEADER, Term(7), Index(912))), log_format="text")
    assert line.partition(" ")[2] == "info    raft.role_changed role=leader term=7 last_index=912\n"


def test_memberships_are_written_as_everywhere() -> None:
    conf = ConfState(voters=(ReplicaId(1), ReplicaId(2)), voters_outgoing=(ReplicaId(1), ReplicaId(3)), learners=(ReplicaId(4),))
    event = json.loads(_log(lambda log: event_line(log, events.MembershipChanged(conf))))
    assert (event["event"], event["conf_state"]) == ("raft.membership_changed", "(1 2)&&(1 3) learners=(4)")


def test_a_safety_event_is_an_error_and_noise_is_not_told() -> None:
    def use(log: FilteringBoundLogger) -> None:
        event_line(log, events.PeerUnreachable(ReplicaId(3)))
        event_line(log, events.SafetyEvent(MessageType.APPEND, ReplicaId(2), Term(7), "two leaders"))

    (line,) = _log(use).splitlines()
    event = json.loads(line)
    assert (event["level"], event["event"], event["type"], event["sender"]) == ("error", "raft.safety_event", "append", 2)


@pytest.mark.parametrize("kind", get_args(events.RaftEvent), ids=lambda kind: str(kind.__name__))
def test_every_event_can_be_told(kind: type[Any]) -> None:
    values: dict[str, object] = {"conf_state": ConfState(), "role": Role.FOLLOWER, "type": MessageType.VOTE, "reason": "why"}
    names = [one.name for one in fields(kind)]
    event = kind(**{name: values.get(name, 1) for name in names})
    told = json.loads(_log(lambda log: event_line(log, event), level="debug"))
    assert told["event"].startswith("raft.")
    assert list(told)[3:] == names


def test_a_filtered_event_reads_no_field() -> None:
    event = events.PeerUnreachable(ReplicaId(3))
    object.__delattr__(event, "peer")  # reading it would raise
    assert _log(lambda log: event_line(log, event)) == ""
    with pytest.raises(AttributeError):
        _log(lambda log: event_line(log, event), level="debug")
