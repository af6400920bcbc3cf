"""What a follower does: it takes the leader's log, and passes on what only the leader can serve.

It accepts entries only behind one that it shares with the leader, so that equal names mean equal logs (log matching,
paper 5.3); it removes what conflicts, and nothing else: an old message, arriving late, cannot cut off what followed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravel_node.raft.config import ReadOnlyOption
from ravel_node.raft.election import campaign
from ravel_node.raft.errors import ConfChangeError, DivergedError, ProposalDroppedError
from ravel_node.raft.events import LeaderChanged, RequestDropped, SnapshotIgnored, SnapshotRestored
from ravel_node.raft.limits import NUMBER_MAX
from ravel_node.raft.tracker import Membership
from ravel_node.raft.types import NO_REPLICA, EntryId, Index, Message, MessageType, ReadState

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft
    from ravel_node.raft.types import Snapshot


def is_impossible(raft: Raft, message: Message) -> bool:
    """Whether no leader of our term can have sent this; then it is reported."""
    if message.term == 0:
        raft.suspect(message, "nobody leads term 0")
    elif raft.leader not in (NO_REPLICA, message.from_):
        raft.suspect(message, f"{raft.leader} leads this term already")
    else:
        return False
    return True


def handle_append(raft: Raft, message: Message) -> None:
    if is_impossible(raft, message):
        return
    raft.follow(message.from_)
    log = raft.log
    problem = _entries_problem(message)
    if message.index < log.committed and raft.config.as_etcd:
        raft.acknowledge(message.from_, log.committed)
    elif problem:
        raft.suspect(message, problem)
    elif message.index < log.committed:
        # What is committed here is settled; the leader may go on behind it.
        _require_same_commits(raft, message)
        raft.acknowledge(message.from_, log.committed)
    elif not log.matches(message.index, message.log_term):
        _refuse_append(raft, message)
    else:
        _take_entries(raft, message)


def _require_same_commits(raft: Raft, message: Message) -> None:
    """Raise DivergedError if the leader has other entries where this log is committed.

    No leader of a correct cluster has (leader completeness, paper 5.4.3), so somebody has lost what it had acknowledged: a data
    directory was restored from a copy, or a disk did not keep what it had synced. Two logs that are both called committed must
    not go on side by side, and only a person can say which one is right.
    """
    log = raft.log
    shared = [EntryId(message.log_term, message.index), *(entry.id for entry in message.entries)]
    for theirs in shared:
        if log.first_index - 1 <= theirs.index <= log.committed and not log.matches(theirs.index, theirs.term):
            raise DivergedError(
                f"entry {theirs.index} is committed here in term {log.term(theirs.index)}, and replica {message.from_}, which "
                f"leads term {message.term}, has it in term {theirs.term}: one of the two data directories was restored from a "
                "copy or has lost acknowledged writes; compare them with `ravelctl log diff` before you start either again"
            )


def _take_entries(raft: Raft, message: Message) -> None:
    log, entries = raft.log, message.entries
    # All of them lie behind our commit index, so whatever conflicts may be replaced.
    conflict = log.find_conflict(entries)
    if conflict:
        log.append(entries[conflict - entries[0].index :])
    last = Index(message.index + len(entries))
    # Beyond the last of these entries our log is not known to be the leader's (paper, figure 2, AppendEntries 5).
    log.commit_to(min(message.commit, last))
    raft.acknowledge(message.from_, last)


def _refuse_append(raft: Raft, message: Message) -> None:
    """Answer where the logs may match at the latest: our last entry whose term is not above the one asked for."""
    last = min(message.index, raft.log.last_index)
    hint = raft.log.find_match(last, message.log_term)
    raft.send_after_append(
        Message(
            MessageType.APPEND_RESPONSE,
            to=message.from_,
            term=raft.term,
            index=message.index,
            reject=True,
            reject_hint=hint.index,
            log_term=hint.term,
        )
    )


def _entries_problem(message: Message) -> str:
    """What is wrong with the entries of an append, empty if nothing: they must be contiguous, with rising terms."""
    index, term = message.index, message.log_term
    for entry in message.entries:
        index = Index(index + 1)
        if entry.index != index or not term <= entry.term <= message.term:
            return f"entry {entry.term}/{entry.index} cannot follow {term}/{index - 1} in term {message.term}"
        term = entry.term
    return ""


def handle_heartbeat(raft: Raft, message: Message) -> None:
    if is_impossible(raft, message):
        return
    raft.follow(message.from_)
    if message.commit > raft.log.last_index:
        # The leader tells us only of what we acknowledged: part of our log was lost.
        raft.suspect(message, f"commit {message.commit} lies beyond the log, which ends at {raft.log.last_index}")
        return
    raft.log.commit_to(message.commit)
    raft.send(
        Message(
            MessageType.HEARTBEAT_RESPONSE,
            to=message.from_,
            context=message.context,
            promise_us=raft.config.vote_promise_us,
        )
    )


def handle_snapshot(raft: Raft, message: Message) -> None:
    if is_impossible(raft, message):
        return
    snapshot = message.snapshot
    if snapshot is None or not 0 < snapshot.term <= message.term or snapshot.index >= NUMBER_MAX:
        raft.suspect(message, "it holds no snapshot of the leader's log")
        return
    try:
        membership = Membership.from_conf_state(snapshot.conf_state)
    except ConfChangeError as error:
        raft.suspect(message, f"the snapshot's membership cannot be: {error}")
        return
    raft.follow(message.from_)
    if reason := _snapshot_refusal(raft, snapshot, membership):
        raft.emit(SnapshotIgnored(snapshot.index, snapshot.term, reason))
        raft.acknowledge(message.from_, raft.log.committed)
        return
    raft.log.restore(snapshot)
    raft.restore_membership(membership, snapshot.index)
    raft.emit(SnapshotRestored(snapshot.index, snapshot.term))
    raft.acknowledge(message.from_, raft.log.last_index)


def _snapshot_refusal(raft: Raft, snapshot: Snapshot, membership: Membership) -> str:
    """Why the log need not, or must not, be replaced by `snapshot`; empty if it must."""
    if snapshot.index <= raft.log.committed:
        return "it holds nothing new"
    if raft.id not in membership.all_voters | membership.learners:
        return "this replica is not in its membership"
    if raft.log.matches(snapshot.index, snapshot.term):
        raft.log.commit_to(snapshot.index)
        return "the log holds all of it"
    return ""


def handle_propose(raft: Raft, message: Message) -> None:
    """Forward to the leader, or raise ProposalDroppedError."""
    if raft.leader == NO_REPLICA or not raft.config.proposal_forwarding:
        raise ProposalDroppedError
    raft.forward(message)


def handle_read_index(raft: Raft, message: Message) -> None:
    """Forward to the leader; without one the request is dropped, and who asked must ask again."""
    if raft.leader == NO_REPLICA:
        raft.emit(RequestDropped(message.type, "no leader is known"))
        return
    raft.forward(message)


def handle_read_index_response(raft: Raft, message: Message) -> None:
    if len(message.entries) != 1:
        raft.suspect(message, f"an answer to one read holds {len(message.entries)}")
        return
    raft.read_states.append(ReadState(message.index, message.entries[0].data))


def handle_transfer(raft: Raft, message: Message) -> None:
    """Pass on a request for leadership, in the name of the replica that is to lead."""
    if raft.leader == NO_REPLICA:
        raft.emit(RequestDropped(message.type, "no leader is known"))
        return
    raft.messages.append(Message(message.type, to=raft.leader, from_=message.from_, term=raft.term))


def handle_timeout_now(raft: Raft, message: Message) -> None:
    """The leader hands over: stand for election now, whatever the timer says (thesis 3.10)."""
    campaign(raft, transfer=True)


def handle_forget_leader(raft: Raft, message: Message) -> None:
    """Stop holding back votes for the leader's sake. With lease-based reads that promise is what makes them correct."""
    if raft.config.read_only is ReadOnlyOption.LEASE_BASED:
        raft.emit(RequestDropped(message.type, "reads rest on the lease"))
    elif raft.leader != NO_REPLICA:
        raft.leader = NO_REPLICA
        raft.silent_ticks = raft.config.election_ticks
        raft.emit(LeaderChanged(NO_REPLICA, raft.term))
