"""The bookkeeping of reads that wait for proof."""

from __future__ import annotations

import pytest

from ravel_node.raft import Index, JointConfig, MajorityConfig, Message, MessageType, ReplicaId
from ravel_node.raft.limits import READS_PENDING_MAX
from ravel_node.raft.read_only import ReadOnly
from tests.raft.support import ONE, THREE, TWO, ids

QUORUM = JointConfig(MajorityConfig(frozenset(ids(1, 2, 3))))
REQUEST = Message(MessageType.READ_INDEX)


def waiting(*indexes: int) -> ReadOnly:
    reads = ReadOnly()
    for index in indexes:
        assert reads.add(Index(index), REQUEST, ONE)
    return reads


def released(reads: ReadOnly, quorum: JointConfig = QUORUM) -> list[int]:
    return [read.index for read, _ in reads.release(quorum)]


def test_nothing_is_carried_while_nothing_waits() -> None:
    """Property 73: what was served takes no room."""
    reads = waiting(4)
    assert reads.context
    reads.echo(TWO, reads.context, 0)
    assert released(reads) == [4]
    assert (reads.context, reads.pending) == (b"", 0)


def test_an_echo_proves_everything_before_it_in_order() -> None:
    """Property 69."""
    reads = waiting(4)
    early = reads.context
    reads.add(Index(5), REQUEST, ONE)
    reads.add(Index(5), REQUEST, ONE)
    late = reads.context
    assert released(reads) == []
    reads.echo(TWO, early, 0)
    assert released(reads) == [4]
    reads.echo(THREE, late, 0)
    assert released(reads) == [5, 5]


def test_equal_requests_stay_two() -> None:
    """Property 71."""
    reads = waiting(4)
    first = reads.context
    reads.add(Index(4), REQUEST, ONE)
    reads.echo(TWO, first, 0)
    assert released(reads) == [4]
    assert reads.pending == 1


def test_both_halves_must_echo() -> None:
    joint = JointConfig(MajorityConfig(frozenset(ids(1, 2, 3))), MajorityConfig(frozenset(ids(3, 4, 5))))
    reads = waiting(4)
    for replica in (TWO, THREE):
        reads.echo(replica, reads.context, 0)
    assert released(reads, joint) == []
    reads.echo(ReplicaId(5), reads.context, 0)
    assert released(reads, joint) == [4]


def test_a_leader_outside_of_the_quorum_does_not_count_itself() -> None:
    quorum = JointConfig(MajorityConfig(frozenset(ids(2, 3))))
    reads = waiting(4)
    reads.echo(TWO, reads.context, 0)
    assert released(reads, quorum) == []


@pytest.mark.parametrize("context", [b"", b"x", b"r1", (2).to_bytes(8, "big"), b"\xff" * 8, b"\x00" * 8])
def test_an_echo_of_nothing_proves_nothing(context: bytes) -> None:
    reads = waiting(4)
    assert not reads.echo(TWO, context, 0)
    assert released(reads) == []


def test_the_number_that_waits_is_bounded() -> None:
    reads = waiting(*range(1, READS_PENDING_MAX + 1))
    assert not reads.add(Index(1), REQUEST, ONE)
    assert reads.pending == READS_PENDING_MAX
