"""Standing for election and voting: what every role does alike.

A replica votes once a term, first come, and only for a log at least as new as its own (paper 5.2, 5.4.1). With pre-vote
an election begins with a poll, "would you vote for me?", which binds nobody: a replica that was cut off finds out that
it cannot win before it disturbs a working cluster (thesis 9.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ravel_node.raft import leader as leading
from ravel_node.raft.events import ElectionLost, ElectionRefused, ElectionStarted, ElectionWon, VoteCast, VoteRejected
from ravel_node.raft.quorum import VoteResult
from ravel_node.raft.types import NO_REPLICA, Message, MessageType, Role, Term

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft
    from ravel_node.raft.types import ReplicaId

TRANSFER_CONTEXT: Final = b"CampaignTransfer"
"""Marks a vote request that the leader itself asked for: its lease need not be waited out (thesis 3.10, 4.2.3)."""


def handle_hup(raft: Raft, message: Message) -> None:
    """Start an election, because the timer ran out or somebody asked for it."""
    campaign(raft, transfer=False)


def campaign(raft: Raft, *, transfer: bool) -> None:
    """Stand for election if this replica may. A transfer has the leader's consent and needs no poll."""
    if raft.role is Role.LEADER:
        return
    if not raft.promotable:
        raft.emit(ElectionRefused(raft.term, "no voter, or still without its snapshot"))
    elif not raft.config.as_etcd and not transfer and raft.promises and not raft.tracker.is_singleton(raft.id):
        raft.emit(ElectionRefused(raft.term, "a leader was heard less than an election timeout ago"))
    elif raft.log.has_unapplied_conf_change(raft.config.committed_bytes_max):
        # It may be about to learn of another membership, and must not win by the old one.
        raft.emit(ElectionRefused(raft.term, "a committed membership change is not applied yet"))
    elif raft.config.pre_vote and not transfer:
        _poll(raft)
    else:
        _stand(raft, transfer=transfer)


def _poll(raft: Raft) -> None:
    raft.emit(ElectionStarted(Term(raft.term + 1), pre_vote=True, transfer=False))
    raft.become_pre_candidate()
    _request_votes(raft, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE, Term(raft.term + 1), b"")


def _stand(raft: Raft, *, transfer: bool) -> None:
    raft.emit(ElectionStarted(Term(raft.term + 1), pre_vote=False, transfer=transfer))
    raft.become_candidate()
    context = TRANSFER_CONTEXT if transfer else b""
    _request_votes(raft, MessageType.VOTE, MessageType.VOTE_RESPONSE, raft.term, context)


def _request_votes(raft: Raft, request: MessageType, answer: MessageType, term: Term, context: bytes) -> None:
    """Ask every voter. Our own vote is an answer too: it counts once it is durable."""
    last = raft.log.last_id
    for voter in sorted(raft.tracker.membership.all_voters):
        if voter == raft.id:
            raft.send_after_append(Message(answer, to=voter, term=term))
            continue
        raft.messages.append(
            Message(
                request,
                to=voter,
                from_=raft.id,
                term=term,
                log_term=last.term,
                index=last.index,
                context=context,
            )
        )


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Grant or refuse a vote, or a poll's question. The term is ours, or a poll's of the future."""
    pre_vote = message.type is MessageType.PRE_VOTE
    answer_type = MessageType.PRE_VOTE_RESPONSE if pre_vote else MessageType.VOTE_RESPONSE
    if reason := _refusal(raft, message):
        raft.emit(VoteRejected(message.from_, message.term, pre_vote, reason))
        raft.send_after_append(Message(answer_type, to=message.from_, term=raft.term, reject=True))
        return
    raft.emit(VoteCast(message.from_, message.term, pre_vote))
    # The answer carries the term that was asked about: for a poll that is not ours.
    raft.send_after_append(Message(answer_type, to=message.from_, term=message.term))
    if not pre_vote:
        raft.election_elapsed = 0
        raft.vote = message.from_


def _refusal(raft: Raft, message: Message) -> str:
    """Why the vote cannot be given, empty if it can."""
    if not _may_vote(raft, message):
        return "a leader is known" if raft.vote == NO_REPLICA else "the vote of this term is given"
    if not raft.log.is_up_to_date(message.index, message.log_term):
        return "its log is older"
    return ""


def _may_vote(raft: Raft, message: Message) -> bool:
    if raft.vote == message.from_:
        return True  # the same vote again: the first answer may have been lost
    if raft.vote == NO_REPLICA and raft.leader == NO_REPLICA:
        return True
    return message.type is MessageType.PRE_VOTE and message.term > raft.term


def count_vote(raft: Raft, replica: ReplicaId, *, granted: bool) -> None:
    """Count an answer, and go on to what it decides."""
    pre_vote = raft.role is Role.PRE_CANDIDATE
    tally = raft.tracker.record_vote(replica, granted)
    if tally.result is VoteResult.WON:
        raft.emit(ElectionWon(raft.term, pre_vote, tally.granted, tally.rejected))
        if pre_vote:
            _stand(raft, transfer=False)
        else:
            raft.become_leader()
            leading.broadcast_append(raft)
    elif tally.result is VoteResult.LOST:
        raft.emit(ElectionLost(raft.term, pre_vote, tally.granted, tally.rejected))
        # A poll that was granted in a term to come leaves us in ours.
        raft.become_follower(raft.term, NO_REPLICA)
