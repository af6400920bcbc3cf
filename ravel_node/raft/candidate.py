"""What a replica does while it polls or stands for election.

It waits for one of three things (paper 5.2): a majority grants, a leader of its term or a later one shows itself, or
time runs out and it starts again. A majority of refusals ends the wait early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravel_node.raft import election, follower
from ravel_node.raft.errors import ProposalDroppedError

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft
    from ravel_node.raft.types import Message


def handle_propose(raft: Raft, message: Message) -> None:
    """There is no leader to take it."""
    raise ProposalDroppedError


def handle_append(raft: Raft, message: Message) -> None:
    if _concede(raft, message):
        follower.handle_append(raft, message)


def handle_heartbeat(raft: Raft, message: Message) -> None:
    if _concede(raft, message):
        follower.handle_heartbeat(raft, message)


def handle_snapshot(raft: Raft, message: Message) -> None:
    if _concede(raft, message):
        follower.handle_snapshot(raft, message)


def _concede(raft: Raft, message: Message) -> bool:
    """Follow the leader that somebody else became in our term."""
    if follower.is_impossible(raft, message):
        return False
    raft.become_follower(message.term, message.from_)
    return True


def handle_vote_answer(raft: Raft, message: Message) -> None:
    """An answer to what is being asked: the table lets only those of this round's kind in here."""
    election.count_vote(raft, message.from_, granted=not message.reject)
