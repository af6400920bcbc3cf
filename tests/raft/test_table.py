"""Every pair of role and message type has its place."""

from __future__ import annotations

import itertools

import pytest

from ravel_node.raft import MessageType, Role, SafetyEvent
from ravel_node.raft.raw_node import ANSWER_TYPES, LOCAL_TYPES
from ravel_node.raft.table import HANDLERS, IGNORED, SUSPECT, handler_for
from tests.raft.support import TWO, message, settled_leader

PAIRS = list(itertools.product(Role, MessageType))


def test_the_tables_are_disjoint_and_cover_everything() -> None:
    assert len(HANDLERS) + len(SUSPECT) + len(IGNORED) == len(PAIRS)
    assert set(HANDLERS) | SUSPECT | IGNORED == set(PAIRS)


@pytest.mark.parametrize(("role", "kind"), PAIRS)
def test_what_is_looked_up_is_what_the_table_says(role: Role, kind: MessageType) -> None:
    assert handler_for(role, kind) is HANDLERS.get((role, kind))


@pytest.mark.parametrize("kind", [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT])
def test_a_second_leader_of_the_term_raises_the_alarm(kind: MessageType) -> None:
    leader = settled_leader()
    before = leader.status
    leader.step(message(kind, from_=TWO, term=leader.raw.term))
    assert leader.settle() == []
    alarms = [event for event in leader.events if isinstance(event, SafetyEvent)]
    assert [(alarm.type, alarm.sender, alarm.term) for alarm in alarms] == [(kind, 2, 1)]
    assert leader.status == before


def test_answers_and_local_messages_are_different_things() -> None:
    assert not ANSWER_TYPES & LOCAL_TYPES
