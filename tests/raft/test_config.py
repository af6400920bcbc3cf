"""Settings that cannot work are refused, all problems at once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ravel_node.raft import NO_LIMIT, Index, RaftConfig, RaftConfigError, ReadOnlyOption, ReplicaId
from tests.raft.support import ONE


def test_the_defaults_work() -> None:
    assert list(RaftConfig(id=ONE).problems()) == []


def test_every_problem_is_told_with_its_values() -> None:
    with pytest.raises(RaftConfigError) as told:
        RaftConfig(
            id=ReplicaId(0),
            election_ticks=3,
            heartbeat_ticks=3,
            applied=Index(-1),
            message_bytes_max=9,
            committed_bytes_max=0,
            uncommitted_bytes_max=-5,
            inflight_messages_max=0,
            inflight_bytes_max=8,
            check_quorum=False,
            read_only=ReadOnlyOption.LEASE_BASED,
        )
    found = str(told.value).split("; ")
    assert len(found) == 8
    assert "election_ticks (3) must exceed heartbeat_ticks (3)" in found
    assert "inflight_bytes_max (8) must not be below message_bytes_max (9)" in found


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", NO_LIMIT), ("heartbeat_ticks", 0), ("message_bytes_max", -1), ("committed_bytes_max", 0)],
)
def test_one_problem_alone(field: str, value: Any) -> None:
    with pytest.raises(RaftConfigError, match=re.escape(f"{field} ({value})")):
        RaftConfig(**({"id": ONE} | {field: value}))
