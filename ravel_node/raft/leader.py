"""What a leader does: it appends, replicates, commits, answers reads, and hands over.

It appends proposals to its own log and sends them at once, without waiting for its own disk: its own copy counts like
any other, once durable (thesis 10.2.1). An entry is committed when a majority holds it, but only entries of the current
term are committed by counting copies; older ones are committed with them (paper 5.4.2, figure 8).

For each peer a `Progress` says what to send next. After every answer the leader sends what the window now allows, and
an empty append where the peer may not know how far it can commit.

Membership changes go through the log one at a time: none is appended until the one before it is applied (thesis 4.1).
One that cannot take effect is replaced by an empty entry, so that the proposer's index still exists and nothing happens
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ravel_node.raft.confchange import Changer, MembershipChange, decode_conf_change
from ravel_node.raft.config import ReadOnlyOption
from ravel_node.raft.errors import (
    ConfChangeError,
    ProposalDroppedError,
    SnapshotTemporarilyUnavailableError,
    StorageError,
    invariant,
)
from ravel_node.raft.events import (
    ConfChangeIgnored,
    PeerUnreachable,
    RequestDropped,
    SnapshotOutdated,
    SnapshotReported,
    SnapshotSent,
    SteppedDown,
    TransferIgnored,
    TransferStarted,
)
from ravel_node.raft.limits import READS_PENDING_MAX
from ravel_node.raft.progress import Progress, ProgressState
from ravel_node.raft.types import (
    NO_LIMIT,
    NO_REPLICA,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryId,
    EntryType,
    Index,
    Message,
    MessageType,
    ReadState,
    ReplicaId,
)

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft


# Proposals.


def handle_propose(raft: Raft, message: Message) -> None:
    """Append what a follower forwarded. Raises ProposalDroppedError."""
    propose(raft, message.entries)


def propose(raft: Raft, proposals: Sequence[Entry]) -> list[EntryId]:
    """Append `proposals`, of which only type and payload count, and send them. Raises ProposalDroppedError."""
    if not may_propose(raft) or not proposals:
        raise ProposalDroppedError
    term, index = raft.term, raft.log.last_index
    entries = []
    change_index = Index(0)
    for proposal in proposals:
        index = Index(index + 1)
        entry = Entry(term, index, proposal.type, proposal.data)
        if entry.type is not EntryType.NORMAL:
            if reason := _refusal_of_entry(raft, entry, another=change_index):
                raft.emit(ConfChangeIgnored(index, reason))
                entry = Entry(term, index)
            else:
                change_index = index
        entries.append(entry)
    if not append_entries(raft, entries):
        raise ProposalDroppedError
    if change_index:
        raft.pending_conf_index = change_index
    broadcast_append(raft)
    return [entry.id for entry in entries]


def may_propose(raft: Raft) -> bool:
    """Whether this leader takes proposals: it is a member, and is not handing over."""
    return raft.transferee == NO_REPLICA and raft.id in raft.tracker.progress


def propose_leave(raft: Raft) -> None:
    """Append the entry that ends a joint configuration."""
    propose(raft, (Entry(raft.term, Index(0), EntryType.CONF_CHANGE_V2),))


def append_entries(raft: Raft, entries: Sequence[Entry]) -> bool:
    """Append entries of our term at the end of our log, without sending them. False if the quota is used up."""
    if not _take_quota(raft, entries):
        return False
    raft.log.append(entries)
    raft.acknowledge(raft.id, raft.log.last_index)
    return True


def _take_quota(raft: Raft, entries: Sequence[Entry]) -> bool:
    """Bound what a leader cut off from its majority piles up. Empty payloads pass, and whatever comes first."""
    size = sum([len(entry.data) for entry in entries])
    if size and raft.uncommitted_bytes and raft.uncommitted_bytes + size > raft.config.uncommitted_bytes_max:
        return False
    raft.uncommitted_bytes += size
    return True


# Membership changes.


def _refusal_of_entry(raft: Raft, entry: Entry, another: Index) -> str:
    """Why `entry`'s change cannot be appended, empty if it can; `another` is the index of a change just before it."""
    try:
        change = decode_conf_change(entry)
    except ConfChangeError as error:
        return str(error)
    if another and raft.config.conf_change_validation:
        return f"possible unapplied conf change at index {another}"
    return refusal_of(raft, change)


def refusal_of(raft: Raft, change: ConfChange | ConfChangeV2) -> str:
    """Why `change` cannot take effect if it is appended now, empty if it can."""
    if not raft.config.conf_change_validation:
        return ""
    if raft.pending_conf_index > raft.log.applied:
        return f"possible unapplied conf change at index {raft.pending_conf_index} (applied to {raft.log.applied})"
    leaving = isinstance(change, ConfChangeV2) and not change.changes
    joint = raft.tracker.membership.is_joint
    if joint and not leaving:
        return "must transition out of joint config first"
    if leaving and not joint:
        return "not in joint state; refusing empty conf change"
    try:
        outcome_of(raft, change)
    except ConfChangeError as error:
        return str(error)
    return ""


def outcome_of(raft: Raft, change: ConfChange | ConfChangeV2) -> MembershipChange:
    """What `change` makes of the membership in use. Raises ConfChangeError."""
    return Changer(raft.tracker.membership).change(change)


def lead_new_membership(raft: Raft) -> None:
    """Act on a membership that was just switched to: fewer voters may commit more, and new peers must be found."""
    if maybe_commit(raft):
        broadcast_append(raft)
    else:
        for peer in _peers(raft):
            maybe_send_append(raft, peer, send_if_empty=False)
    if raft.tracker.is_singleton(raft.id):
        # Nobody is left whose answer could release what waits.
        _release_reads(raft)


# Sending.


def _peers(raft: Raft) -> list[ReplicaId]:
    return [replica for replica in raft.tracker.ids if replica != raft.id]


def broadcast_append(raft: Raft) -> None:
    """Send every peer what it lacks, and the commit index even to those that lack nothing."""
    for replica in raft.tracker.ids:
        if replica != raft.id:
            maybe_send_append(raft, replica)


def maybe_send_append(raft: Raft, peer: ReplicaId, *, send_if_empty: bool = True) -> bool:
    """Send `peer` its next entries, or a snapshot where these are compacted, if it may be sent anything now."""
    progress = raft.tracker.progress[peer]
    if progress.paused:
        return False
    log = raft.log
    previous = Index(progress.next - 1)
    entries: tuple[Entry, ...] = ()
    try:
        previous_term = log.term(previous)
        # With a full window an empty append still goes: if all that is in flight was lost, its refusal shows that.
        if progress.state is not ProgressState.REPLICATE or not progress.inflights.full:
            entries = log.entries(progress.next, raft.config.message_bytes_max)
    except StorageError:
        return _maybe_send_snapshot(raft, peer, progress)
    if not entries and not send_if_empty:
        return False
    raft.send(
        Message(
            MessageType.APPEND,
            to=peer,
            log_term=previous_term,
            index=previous,
            entries=entries,
            commit=log.committed,
        )
    )
    progress.sent_entries(len(entries), sum([len(entry.data) for entry in entries]))
    progress.sent_commit_index(log.committed)
    return True


def _maybe_send_snapshot(raft: Raft, peer: ReplicaId, progress: Progress) -> bool:
    """Send a snapshot, unless the peer is silent or there is none for it: the next sign of life tries again."""
    if not progress.recent_active:
        return False
    try:
        snapshot = raft.log.snapshot()
    except SnapshotTemporarilyUnavailableError:
        return False
    invariant(snapshot.index > 0, "the log is compacted, and there is no snapshot of what it lacks")
    conf_state = snapshot.conf_state
    if peer not in (*conf_state.voters, *conf_state.learners, *conf_state.voters_outgoing):
        # The peer would refuse it, and then be sent it again.
        raft.emit(SnapshotOutdated(peer, snapshot.index))
        return False
    progress.become_snapshot(snapshot.index)
    raft.send(Message(MessageType.SNAPSHOT, to=peer, snapshot=snapshot))
    raft.emit(SnapshotSent(peer, snapshot.index, snapshot.term))
    return True


def broadcast_heartbeat(raft: Raft) -> None:
    """Show every peer that we lead, and ask it to prove so the reads that wait."""
    context = raft.reads.context
    for peer in _peers(raft):
        progress = raft.tracker.progress[peer]
        # Not beyond match: there the peer's log need not be ours, and it must not commit what is not.
        commit = min(progress.match, raft.log.committed)
        raft.send(Message(MessageType.HEARTBEAT, to=peer, commit=commit, context=context))
        progress.sent_commit_index(commit)


def handle_beat(raft: Raft, message: Message) -> None:
    broadcast_heartbeat(raft)


def handle_check_quorum(raft: Raft, message: Message) -> None:
    """Step down unless a quorum was heard of since the last check: somebody else may lead by now (thesis 6.2)."""
    active = raft.tracker.quorum_active()
    for peer in _peers(raft):
        raft.tracker.progress[peer].recent_active = False
    if not active:
        raft.emit(SteppedDown(raft.term, "no quorum is active"))
        raft.become_follower(raft.term, NO_REPLICA)


# Answers.


def handle_append_response(raft: Raft, message: Message) -> None:
    progress = _progress_of(raft, message)
    if progress is None:
        return
    if not message.reject and message.index > raft.log.last_index:
        raft.suspect(message, f"it acknowledges {message.index}, and the log ends at {raft.log.last_index}")
        return
    progress.heard()
    if message.reject:
        _step_back(raft, message, progress)
    else:
        _advance(raft, message, progress)


def _progress_of(raft: Raft, message: Message) -> Progress | None:
    return raft.tracker.progress.get(message.from_)


def _step_back(raft: Raft, message: Message, progress: Progress) -> None:
    """Probe further back. The hint names the peer's last possible match; our own log may rule out more."""
    hint = message.reject_hint
    if message.log_term > 0:
        hint = raft.log.find_match(hint, message.log_term).index
    if progress.refuse(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        maybe_send_append(raft, message.from_)


def _advance(raft: Raft, message: Message, progress: Progress) -> None:
    """Take an acknowledgement, commit what it completes, and send what it makes room for."""
    peer, index = message.from_, message.index
    # A probe answered at the very place that was known to match is no news, but the peer can follow from there.
    if not progress.acknowledge(index) and not (index == progress.match and progress.state is ProgressState.PROBE):
        return
    _leave_waiting_state(raft, progress, index)
    if index > raft.log.committed and maybe_commit(raft):
        broadcast_append(raft)
    elif peer != raft.id and progress.may_lack_commit(raft.log.committed):
        maybe_send_append(raft, peer)
    if peer == raft.id:
        return
    while maybe_send_append(raft, peer, send_if_empty=False):
        pass  # ends with the window or with the log, whichever is shorter
    if peer == raft.transferee and progress.match == raft.log.last_index:
        _send_timeout_now(raft, peer)


def _leave_waiting_state(raft: Raft, progress: Progress, index: Index) -> None:
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.SNAPSHOT:
        if progress.match + 1 >= raft.log.first_index:
            # It reached our log again, by whatever snapshot: no need to wait for the one that we sent.
            progress.become_probe()
            progress.become_replicate()
    else:
        progress.inflights.free_to(index)


def maybe_commit(raft: Raft) -> bool:
    """Commit what a quorum holds, if it is of our term (paper 5.4.2). True if that is progress."""
    if not raft.log.commit_if_term(raft.tracker.committed_index(), raft.term):
        return False
    if raft.early_reads:
        _start_early_reads(raft)
    return True


def handle_heartbeat_response(raft: Raft, message: Message) -> None:
    progress = _progress_of(raft, message)
    if progress is None:
        return
    progress.heard()
    progress.resume()
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        maybe_send_append(raft, message.from_)
    if message.context and raft.reads.echo(message.from_, message.context, message.promise_us):
        _release_reads(raft)


def handle_snapshot_status(raft: Raft, message: Message) -> None:
    """The transport says how a snapshot fared. What the peer makes of it, the next heartbeat's answer will show."""
    progress = _progress_of(raft, message)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    progress.snapshot_reported(delivered=not message.reject)
    raft.emit(SnapshotReported(message.from_, not message.reject))


def handle_unreachable(raft: Raft, message: Message) -> None:
    """What was sent ahead is likely lost: go back to what was acknowledged."""
    progress = _progress_of(raft, message)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()
        raft.emit(PeerUnreachable(message.from_))


# Reads.


def handle_read_index(raft: Raft, message: Message) -> None:
    """Find out from which index on a read is linearizable, for ourselves or for a follower."""
    if len(message.entries) != 1:
        raft.suspect(message, f"a request for one read holds {len(message.entries)}")
    elif not raft.committed_in_term:
        # What earlier terms committed may go further than we know (thesis 6.4, step 1). That goes for a voter alone,
        # too: it may have lost its commit index, though not its log, in a crash.
        if len(raft.early_reads) < READS_PENDING_MAX:
            raft.early_reads.append(message)
        else:
            raft.emit(RequestDropped(message.type, "too many reads wait"))
    else:
        _start_read(raft, message)


def _start_read(raft: Raft, request: Message) -> None:
    alone = raft.tracker.is_singleton(raft.id)
    if alone or raft.config.read_only is ReadOnlyOption.LEASE_BASED:
        _answer_read(raft, request, raft.log.committed, NO_LIMIT if alone else 0)
    elif raft.reads.add(raft.log.committed, request, raft.id):
        broadcast_heartbeat(raft)
    else:
        raft.emit(RequestDropped(request.type, "too many reads wait"))


def _start_early_reads(raft: Raft) -> None:
    requests, raft.early_reads = raft.early_reads, []
    for request in requests:
        _start_read(raft, request)


def _release_reads(raft: Raft) -> None:
    for read, promise_us in raft.reads.release(raft.tracker.quorum):
        _answer_read(raft, read.request, read.index, promise_us)


def _answer_read(raft: Raft, request: Message, index: Index, promise_us: int) -> None:
    if request.from_ in (NO_REPLICA, raft.id):
        raft.read_states.append(ReadState(index, request.entries[0].data, promise_us))
    else:
        raft.send(Message(MessageType.READ_INDEX_RESPONSE, to=request.from_, index=index, entries=request.entries))


# Leadership transfer (thesis 3.10).


def handle_transfer(raft: Raft, message: Message) -> None:
    """Hand leadership to the sender: bring its log up to date, then tell it to stand for election at once."""
    target = message.from_
    progress = _progress_of(raft, message)
    if reason := _transfer_refusal(raft, target, progress):
        raft.emit(TransferIgnored(target, raft.term, reason))
        return
    raft.abort_transfer("another transfer was asked for")
    if target == raft.id or progress is None:
        raft.emit(TransferIgnored(target, raft.term, "it leads already"))
        return
    raft.election_elapsed = 0  # the transfer has one election timeout to succeed
    raft.transferee = target
    raft.emit(TransferStarted(target, raft.term))
    if progress.match == raft.log.last_index:
        _send_timeout_now(raft, target)
    else:
        maybe_send_append(raft, target)


def _transfer_refusal(raft: Raft, target: ReplicaId, progress: Progress | None) -> str:
    if progress is None:
        return "it is no member"
    if progress.is_learner:
        return "it is a learner"
    if target == raft.transferee:
        return "a transfer to it is going on"
    return ""


def _send_timeout_now(raft: Raft, target: ReplicaId) -> None:
    raft.send(Message(MessageType.TIMEOUT_NOW, to=target))
