"""What peers may do to a replica: nothing that stops it. And what bounds it keeps by itself."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravel_node.raft import (
    LOCAL_APPLY,
    NO_LIMIT,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Index,
    InvariantError,
    Message,
    MessageType,
    RaftError,
    ReplicaId,
    Role,
    SafetyEvent,
    Snapshot,
    Term,
)
from ravel_node.raft.election import TRANSFER_CONTEXT
from ravel_node.raft.limits import EVENTS_MAX, NUMBER_MAX
from tests.raft.support import TWO, Replica, conf, entries, message, replica, settled_leader

numbers = st.one_of(st.integers(0, 8), st.sampled_from([NUMBER_MAX - 1, NUMBER_MAX, NO_LIMIT - 1, NO_LIMIT]))
replica_numbers = st.one_of(st.integers(0, 5), st.just(1 << 40)).map(ReplicaId)
some_entries = st.lists(
    st.builds(Entry, numbers.map(Term), numbers.map(Index), st.sampled_from(EntryType), st.binary(max_size=6)),
    max_size=3,
).map(tuple)
some_ids = st.lists(replica_numbers, max_size=3).map(tuple)
snapshots = st.builds(
    Snapshot,
    numbers.map(Index),
    numbers.map(Term),
    st.one_of(st.just(conf(1, 2, 3)), st.builds(ConfState, some_ids, some_ids, some_ids, some_ids, st.booleans())),
)
hostile_messages = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    from_=replica_numbers,
    term=numbers.map(Term),
    log_term=numbers.map(Term),
    index=numbers.map(Index),
    entries=some_entries,
    commit=numbers.map(Index),
    vote=replica_numbers,
    snapshot=st.none() | snapshots,
    reject=st.booleans(),
    reject_hint=numbers.map(Index),
    context=st.sampled_from([b"", b"x", (1).to_bytes(8, "big"), b"\xff" * 8, TRANSFER_CONTEXT]),
)


def victim(role: Role, asynchronous: bool) -> Replica:
    options: dict[str, Any] = {"async_storage_writes": asynchronous, "check_quorum": True, "message_bytes_max": 60}
    if role is Role.LEADER:
        one = settled_leader(**options)
        one.raw.read_index(b"r")
        one.raw.propose_many([b"a", b"b"])
        return one
    options["pre_vote"] = role is Role.PRE_CANDIDATE
    one = replica(log=entries(1, 1, 2), hard_state=HardState(Term(2), commit=Index(1)), **options)
    if role is not Role.FOLLOWER:
        one.raw.campaign()
    one.settle()
    assert one.raw.role is role
    return one


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(Role), st.booleans(), st.lists(hostile_messages, min_size=1, max_size=8))
def test_no_message_of_a_peer_stops_a_replica(role: Role, asynchronous: bool, sent: list[Message]) -> None:
    """Whatever comes: refused, ignored or taken, the core's own state stays whole, and the effort small."""
    one = victim(role, asynchronous)
    for hostile in sent:
        with suppress(RaftError):
            one.raw.step(hostile)
        one.raft.log.check()
        one.settle()
    one.tick(30)
    one.settle()
    one.raft.log.check()
    assert one.raw.term < NUMBER_MAX + 9


@pytest.mark.parametrize("role", Role)
def test_a_term_beyond_reason_is_not_believed(role: Role) -> None:
    """A peer that names the highest number there is would leave no term to be elected in."""
    one = victim(role, False)
    term = one.raw.term
    one.step(message(MessageType.HEARTBEAT, from_=TWO, term=Term(NO_LIMIT)))
    assert one.raw.term == term
    assert any(isinstance(event, SafetyEvent) for event in one.raw.take_events())


def test_events_that_nobody_fetches_are_bounded() -> None:
    one = settled_leader()
    for _ in range(EVENTS_MAX + 10):
        one.raw.step(message(MessageType.HEARTBEAT, from_=TWO, term=Term(1)))
    assert len(one.raw.take_events()) == EVENTS_MAX


def test_a_broken_answer_of_the_machine_stops_the_replica() -> None:
    """Property 80: applying beyond commit is our own mistake, and not to be gone on with."""
    one = settled_leader()
    done = message(MessageType.STORAGE_APPLY_RESPONSE, from_=LOCAL_APPLY, entries=tuple(entries(1, first=9)))
    with pytest.raises(InvariantError):
        one.raw.step(done)


def test_an_error_of_the_storage_stops_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """Property 80: it goes up to the driver, and nothing is guessed in its place."""
    one = replica(log=entries(1, 1), hard_state=HardState(Term(1), commit=Index(2)))

    def broken(first: Index, end: Index, bytes_max: int) -> list[Entry]:
        raise OSError("read failed")

    monkeypatch.setattr(one.storage, "entries", broken)
    with pytest.raises(OSError, match="read failed"):
        one.raw.ready()


def test_chance_comes_from_outside() -> None:
    """The same generator gives the same timeouts."""
    drawn = []
    for _ in range(2):
        one = replica(seed=5)
        timeouts = []
        for _ in range(20):
            one.raw.campaign()
            one.settle()
            timeouts.append(one.raft.election_timeout)
        drawn.append(timeouts)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("forbidden", ["become_candidate", "become_pre_candidate"])
def test_a_leader_does_not_stand(forbidden: str) -> None:
    """Property 20."""
    one = settled_leader()
    one.raw.campaign()
    assert (one.raw.role, one.raw.term) == (Role.LEADER, 1)
    with pytest.raises(InvariantError):
        getattr(one.raft, forbidden)()


def test_a_follower_does_not_lead_unelected() -> None:
    with pytest.raises(InvariantError):
        replica().raft.become_leader()


def test_a_term_never_falls() -> None:
    one = replica(hard_state=HardState(Term(5)))
    with pytest.raises(InvariantError):
        one.raft.become_follower(Term(4), TWO)
