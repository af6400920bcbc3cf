"""Open files are shared out so that idle clients cannot take those of the store and of the peers."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ravel_node.descriptors import COUNTED_FOR_S, OWN_FILES, PEER_CONNECTIONS_MAX, ConnectionCount, claim, share_out


@pytest.mark.parametrize("limit", [0, 1, 64, OWN_FILES, 200, 256, 1_024, 4_096, 4_479, 4_480, 1 << 20])
@pytest.mark.parametrize("clients_max", [1, 100, 4_096])
def test_the_ports_leave_the_store_its_files(limit: int, clients_max: int) -> None:
    shares = share_out(limit, clients_max)
    assert 1 <= shares.clients <= clients_max
    assert 1 <= shares.peers <= PEER_CONNECTIONS_MAX
    assert shares.clients + shares.peers + OWN_FILES <= max(limit, OWN_FILES + 2)
    assert shares.enough == (limit >= clients_max + PEER_CONNECTIONS_MAX + OWN_FILES)
    if shares.enough:
        assert (shares.clients, shares.peers) == (clients_max, PEER_CONNECTIONS_MAX)


@pytest.mark.parametrize(
    ("soft", "hard", "becomes", "enough"),
    [
        (256, 1 << 20, 4_480, True),
        (256, 1_024, 1_024, False),
        (8_192, 1 << 20, None, True),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, True),
        (256, resource.RLIM_INFINITY, 4_480, True),
    ],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, becomes: int | None, enough: bool
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert claim(4_096).enough is enough
    assert limits[1:] == ([] if becomes is None else [(becomes, hard)])


def test_a_system_that_does_not_let_it_be_raised_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (300, 1 << 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    shares = claim(4_096)
    assert (shares.limit, shares.enough) == (300, False)


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="this system does not tell which sockets are open")
def test_connections_of_a_port_are_counted_now_and_then() -> None:
    clock = [100.0]
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        count = ConnectionCount(listener.getsockname()[1], lambda: clock[0])
        assert count.now() == 0
        for _ in range(7):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        assert count.now() == 0, "it was counted just now"
        clock[0] += COUNTED_FOR_S
        assert count.now() == 7
