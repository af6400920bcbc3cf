"""The same log gives the same bytes, however often a replica restarts on the way, and whoever replays it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome
from ravel_node.machine.envelope import Once
from ravel_node.raft.types import ConfState
from tests.machine.helpers import Cluster, commands, member, server_id, voters

CLIENTS = [(2 << 16) + at for at in range(3)] + [99]
"""Registered by the first entry, but for the last."""

cluster_commands = st.one_of(
    st.just(envelope.register_session()),
    st.integers(1, 6).map(lambda number: envelope.allocate_replica(server_id(number))),
    st.builds(member, st.integers(1, 4), name=st.sampled_from(["", "n1", "x"])).map(envelope.set_member),
)


@st.composite
def groups(draw: st.DrawFn) -> bytes:
    some = draw(st.lists(commands() | cluster_commands, max_size=5))
    if draw(st.booleans()):
        return envelope.group(some)
    sequence = draw(st.integers(1, 20))
    once = Once(draw(st.sampled_from(CLIENTS)), sequence, draw(st.integers(1, sequence)))
    offsets = sorted(draw(st.sets(st.integers(0, 8), min_size=len(some), max_size=len(some))))
    return envelope.group(some, once, offsets)


changes = st.tuples(
    st.sampled_from([voters(1), voters(1, 2), voters(1, learners=[2, 3]), voters(2, 3, outgoing=[1, 2]), voters(3, 4)]),
    st.lists(st.builds(member, st.integers(1, 4)), max_size=2, unique_by=lambda record: record.replica_id),
)
logs = st.lists(st.lists(groups(), max_size=3) | changes, max_size=12)


def replay(log: list[list[bytes] | tuple[ConfState, list[object]]], reopen: bool) -> tuple[Cluster, list[list[Outcome]]]:
    cluster = Cluster()
    answers = [cluster.run(*[envelope.register_session()] * 3)]
    for entry in log:
        if isinstance(entry, tuple):
            cluster.change(entry[0], *entry[1])  # type: ignore[arg-type]
        else:
            answers.append(cluster.apply(*entry))
        if reopen:
            cluster.reopen()
    return cluster, answers


@settings(max_examples=150)
@given(logs)
def test_restarts_change_nothing(log: list[list[bytes] | tuple[ConfState, list[object]]]) -> None:
    steady, answers = replay(log, reopen=False)
    restarted, again = replay(log, reopen=True)
    assert steady.state.content() == restarted.state.content()
    assert answers == again
    # What memory holds beside the state is exactly what the state says: the next restart finds the same.
    known = steady.machine.members, steady.machine.removed_ids, steady.machine.conf_state, steady.machine.revision
    mirror = steady.machine._sessions._by_use
    steady.reopen()
    machine = steady.machine
    assert (machine.members, machine.removed_ids, machine.conf_state, machine.revision) == known
    assert list(machine._sessions._by_use.items()) == list(mirror.items())
