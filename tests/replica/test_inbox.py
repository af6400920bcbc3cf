"""The driver's bounded lanes."""

from __future__ import annotations

import asyncio

import pytest

from ravel_node.raft import Message, MessageType
from ravel_node.replica.errors import ReplicaBusyError
from ravel_node.replica.inbox import Inbox, Proposal


def inbox() -> Inbox:
    return Inbox(proposals_max=4, proposals_bytes_max=100, messages_max=3)


def proposal(size: int, count: int = 1) -> Proposal:
    return Proposal(b"x" * size, count, asyncio.get_running_loop().create_future())


async def test_everything_that_arrived_is_one_turn() -> None:
    box = inbox()
    box.tick()
    box.tick()
    box.step([Message(MessageType.APPEND)])
    box.complete([Message(MessageType.APPEND_RESPONSE)])
    box.call(lambda raw: None)
    turn = await box.take()
    assert turn.tick
    assert (len(turn.messages), len(turn.completed), len(turn.calls)) == (1, 1, 1)


async def test_it_waits_for_something_to_arrive() -> None:
    box = inbox()
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    assert not taking.done()
    box.tick()
    assert (await taking).tick
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0.01)
    assert not taking.done(), "a turn is taken once"
    taking.cancel()


async def test_messages_beyond_the_bound_are_dropped_and_counted() -> None:
    box = inbox()
    box.step([Message(MessageType.APPEND)] * 2)
    box.step([Message(MessageType.HEARTBEAT)] * 4)
    turn = await box.take()
    assert [m.type for m in turn.messages] == [MessageType.APPEND] * 2 + [MessageType.HEARTBEAT]
    assert box.messages_dropped == 3


async def test_proposals_are_refused_by_count_and_by_size() -> None:
    box = inbox()
    box.propose(proposal(10, count=3))
    with pytest.raises(ReplicaBusyError, match="at most 4"):
        box.propose(proposal(10, count=2))
    with pytest.raises(ReplicaBusyError, match="100 bytes"):
        box.propose(proposal(91))
    box.propose(proposal(90))
    assert len(box.take_proposals()) == 2
    assert (box.proposals_count, box.proposals_bytes, box.proposals) == (0, 0, [])
    box.propose(proposal(100, count=4))
