"""The verdict is one that can be lost: each broken promise is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravelctl.client import KeyValue
from ravelctl.linearizability.history import Kind, Operation, Outcome
from ravelctl.linearizability.stale import StaleRead, broken_promises
from tests.e2e.cluster import Server
from tests.faults.ordeal import ELECTION_TIMEOUT_S, RECOVERY_TIMEOUTS, Recovery, check_leaders

WRITES = [
    Operation("a", Kind.PUT, b"k", 0.0, 1.0, value=b"one", revision=1),
    Operation("a", Kind.PUT, b"k", 2.0, 3.0, value=b"two", revision=2),
    Operation("b", Kind.PUT, b"k", 2.0, 9.0, outcome=Outcome.UNKNOWN, value=b"perhaps"),
    Operation("b", Kind.PUT, b"k", 2.0, 9.0, outcome=Outcome.FAILED, value=b"never"),
]


def read(value: bytes | None, revision: int, index: int, ended_s: float = 5.0, server: str = "n1") -> StaleRead:
    answer = KeyValue(b"k", value, revision) if value is not None else None
    return StaleRead(server, b"k", index, answer, ended_s - 0.1, ended_s)


@pytest.mark.parametrize(
    "reads",
    [
        [],
        [read(b"one", 1, 10), read(b"two", 2, 11), read(None, 0, 12)],
        [read(b"two", 2, 11, 5.0), read(b"one", 1, 10, 6.0, "n2")],  # one that lags
        [read(b"perhaps", 3, 12)],
    ],
)
def test_what_a_stale_read_may_show(reads: list[StaleRead]) -> None:
    assert list(broken_promises(reads, WRITES)) == []


@pytest.mark.parametrize(
    ("reads", "why"),
    [
        ([read(b"three", 3, 12)], "nobody wrote that"),
        ([read(b"never", 3, 12)], "nothing was done"),
        ([read(b"two", 2, 11, ended_s=1.5)], "written only later"),
        ([read(b"one", 7, 11)], "was told revision 1"),
        ([read(b"one", 1, 11), read(b"two", 2, 11, server="n2")], "at the same index"),
        ([read(None, 0, 11), read(b"two", 2, 11, server="n2")], "at the same index"),
        ([read(b"two", 2, 11), read(b"one", 1, 12, server="n2")], "is older than"),
    ],
)
def test_what_a_stale_read_may_not_show(reads: list[StaleRead], why: str) -> None:
    (told,) = broken_promises(reads, WRITES)
    assert why in told


def servers_that_led(folder: Path, *terms: int) -> list[Server]:
    servers = [Server(folder, f"n{number}") for number in range(len(terms))]
    for server, term in zip(servers, terms, strict=True):
        server.log_path.write_text(f'{{"event": "raft.role_changed", "role": "leader", "term": {term}}}\n')
    return servers


def test_two_leaders_of_one_term(tmp_path: Path) -> None:
    check_leaders(servers_that_led(tmp_path, 1, 2))
    with pytest.raises(AssertionError, match="two leaders in one term"):
        check_leaders(servers_that_led(tmp_path, 2, 2))


def test_a_recovery_that_is_late() -> None:
    bound_s = RECOVERY_TIMEOUTS * ELECTION_TIMEOUT_S
    assert Recovery(bound_s, 0.0).in_time
    assert not Recovery(bound_s + 1.1, 1.0).in_time
