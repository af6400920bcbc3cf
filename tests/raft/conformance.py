"""Adapters that plug the core into the conformance kit: they translate names and fields, and decide nothing.

The kit loads this file by path and calls `quorum()`, `confchange()` and `core()`. Its own classes cannot be imported
from here, so its objects are typed loosely; what its error handling must recognise is looked up in its module once that
is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ravel_node.raft import (
    NO_LIMIT,
    Changer,
    ChangeType,
    CompactedError,
    ConfChange,
    ConfChangeError,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Index,
    JointConfig,
    MajorityConfig,
    Membership,
    Message,
    MessageType,
    ProgressStatus,
    RaftConfig,
    RaftError,
    RawNode,
    ReadOnlyOption,
    Ready,
    ReplicaId,
    SingleChange,
    Snapshot,
    SnapshotTemporarilyUnavailableError,
    Status,
    Term,
    Transition,
    UnavailableError,
    decode_conf_change,
    entry_size,
)
from ravel_node.raft.tracker import ProgressTracker

MESSAGE_NAMES = {
    MessageType.HUP: "MsgHup",
    MessageType.BEAT: "MsgBeat",
    MessageType.PROPOSE: "MsgProp",
    MessageType.APPEND: "MsgApp",
    MessageType.APPEND_RESPONSE: "MsgAppResp",
    MessageType.VOTE: "MsgVote",
    MessageType.VOTE_RESPONSE: "MsgVoteResp",
    MessageType.SNAPSHOT: "MsgSnap",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageType.UNREACHABLE: "MsgUnreachable",
    MessageType.SNAPSHOT_STATUS: "MsgSnapStatus",
    MessageType.CHECK_QUORUM: "MsgCheckQuorum",
    MessageType.TRANSFER_LEADER: "MsgTransferLeader",
    MessageType.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageType.READ_INDEX: "MsgReadIndex",
    MessageType.READ_INDEX_RESPONSE: "MsgReadIndexResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.STORAGE_APPEND: "MsgStorageAppend",
    MessageType.STORAGE_APPEND_RESPONSE: "MsgStorageAppendResp",
    MessageType.STORAGE_APPLY: "MsgStorageApply",
    MessageType.STORAGE_APPLY_RESPONSE: "MsgStorageApplyResp",
    MessageType.FORGET_LEADER: "MsgForgetLeader",
}
MESSAGE_TYPES = {name: kind for kind, name in MESSAGE_NAMES.items()}
ENTRY_NAMES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
CHANGES = {
    "v": ChangeType.ADD_VOTER,
    "l": ChangeType.ADD_LEARNER,
    "r": ChangeType.REMOVE,
    "u": ChangeType.UPDATE,
}
LETTERS = {kind: letter for letter, kind in CHANGES.items()}
TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}


def _kit_error(text: str) -> Exception:
    """The kit's own error for a refusal, with our text."""
    error: Exception = sys.modules["harness.adapter"].CoreError(text)
    return error


def _single_changes(changes: Sequence[tuple[str, int]]) -> list[SingleChange]:
    return [SingleChange(CHANGES[letter], ReplicaId(replica)) for letter, replica in changes]


# What the kit looks at.


class EntryView:
    """An entry with the kit's name for its type."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.term = entry.term
        self.index = entry.index
        self.type = ENTRY_NAMES[entry.type]
        self.data = entry.data


def _entry_views(entries: Sequence[Entry]) -> tuple[EntryView, ...]:
    return tuple(EntryView(entry) for entry in entries)


class MessageView:
    """A message with the kit's name for its type."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.type = MESSAGE_NAMES[message.type]
        self.to = message.to
        self.from_ = message.from_
        self.term = message.term
        self.log_term = message.log_term
        self.index = message.index
        self.entries = _entry_views(message.entries)
        self.commit = message.commit
        self.vote = message.vote
        self.snapshot = message.snapshot
        self.reject = message.reject
        self.reject_hint = message.reject_hint
        self.context = message.context
        self.responses = tuple(MessageView(response) for response in message.responses)


@dataclass
class SoftStateView:
    lead: int
    state: str


@dataclass
class ReadStateView:
    index: int
    request_ctx: bytes


class ReadyView:
    def __init__(self, ready: Ready) -> None:
        soft_state = ready.soft_state
        self.soft_state = soft_state and SoftStateView(soft_state.leader, soft_state.role.name)
        self.hard_state = ready.hard_state
        self.read_states = [ReadStateView(read.index, read.context) for read in ready.read_states]
        self.entries = _entry_views(ready.entries)
        self.snapshot = ready.snapshot
        self.committed_entries = _entry_views(ready.committed_entries)
        self.messages = [MessageView(message) for message in ready.messages]
        self.must_sync = ready.must_sync


class StatusView:
    def __init__(self, status: Status) -> None:
        self.id = status.id
        self.term = status.term
        self.vote = status.vote
        self.commit = status.commit
        self.applied = status.applied
        self.lead = status.leader
        self.state = status.role.name
        self.voters = status.membership.voters
        self.voters_outgoing = status.membership.voters_outgoing
        self.progress = status.progress


class StorageView:
    """The kit's storage behind our port."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def _ask(self, method: str, *arguments: int) -> Any:
        errors = {
            "compacted": CompactedError,
            "unavailable": UnavailableError,
            "snapshot_temporarily_unavailable": SnapshotTemporarilyUnavailableError,
        }
        try:
            return getattr(self._storage, method)(*arguments)
        except Exception as error:
            if (known := errors.get(getattr(error, "kind", ""))) is not None:
                raise known from error
            raise

    def initial_state(self) -> tuple[HardState, ConfState]:
        hard, conf = self._ask("initial_state")
        conf_state = ConfState(
            tuple(conf.voters),
            tuple(conf.learners),
            tuple(conf.voters_outgoing),
            tuple(conf.learners_next),
            conf.auto_leave,
        )
        return HardState(hard.term, hard.vote, hard.commit), conf_state

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        return [view.entry for view in self._ask("entries", first, end, bytes_max)]

    def term(self, index: Index) -> Term:
        return Term(self._ask("term", index))

    def first_index(self) -> Index:
        return Index(self._ask("first_index"))

    def last_index(self) -> Index:
        return Index(self._ask("last_index"))

    def snapshot(self) -> Snapshot:
        snapshot = self._ask("snapshot")
        assert isinstance(snapshot, Snapshot)
        return snapshot


# The core.


def _raft_config(cfg: Any) -> RaftConfig:
    committed_bytes_max = cfg.max_committed_size_per_ready or cfg.max_size_per_msg
    config = RaftConfig(
        id=cfg.id,
        election_ticks=cfg.election_tick,
        heartbeat_ticks=cfg.heartbeat_tick,
        applied=cfg.applied,
        async_storage_writes=cfg.async_storage_writes,
        message_bytes_max=cfg.max_size_per_msg,
        committed_bytes_max=max(1, committed_bytes_max),
        uncommitted_bytes_max=cfg.max_uncommitted_entries_size or NO_LIMIT,
        inflight_messages_max=cfg.max_inflight_msgs,
        inflight_bytes_max=cfg.max_inflight_bytes or NO_LIMIT,
        check_quorum=cfg.check_quorum,
        pre_vote=cfg.pre_vote,
        read_only=ReadOnlyOption.LEASE_BASED if cfg.read_only == "lease-based" else ReadOnlyOption.SAFE,
        proposal_forwarding=not cfg.disable_proposal_forwarding,
        conf_change_validation=not cfg.disable_conf_change_validation,
        step_down_on_removal=cfg.step_down_on_removal,
        as_etcd=True,
    )
    # The kit knows 0, under which nothing is handed out after the first apply: RaftConfig refuses it for that reason.
    object.__setattr__(config, "committed_bytes_max", committed_bytes_max)
    return config


class Node:
    def __init__(self, raw: RawNode) -> None:
        self._raw = raw
        for name in (
            "tick",
            "campaign",
            "has_ready",
            "advance",
            "forget_leader",
            "report_unreachable",
            "report_snapshot",
            "read_index",
            "transfer_leader",
            "set_randomized_election_timeout",
        ):
            setattr(self, name, getattr(raw, name))

    def propose(self, data: bytes) -> None:
        try:
            self._raw.propose(data)
        except RaftError as error:
            raise _kit_error(str(error)) from error

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        try:
            self._raw.propose_conf_change(change)
        except RaftError as error:
            raise _kit_error(str(error)) from error

    def apply_conf_change(self, view: EntryView) -> ConfState:
        return self._raw.apply_conf_change(decode_conf_change(view.entry), view.entry.index)

    def step(self, view: MessageView) -> None:
        try:
            self._raw.step(view.message)
        except RaftError as error:
            raise _kit_error(str(error)) from error

    def ready(self) -> ReadyView:
        return ReadyView(self._raw.ready())

    def status(self) -> StatusView:
        return StatusView(self._raw.status())


@dataclass
class ConfChangeView:
    transition: str
    changes: list[tuple[str, int]]
    context: bytes


class Core:
    def new_node(self, cfg: Any, storage: Any, logger: Any) -> Any:
        return Node(RawNode(_raft_config(cfg), StorageView(storage), Random(cfg.id)))

    def make_snapshot(self, index: int, term: int, conf_state: ConfState, data: bytes) -> Snapshot:
        return Snapshot(Index(index), Term(term), conf_state, data)

    def make_conf_state(self, voters: Sequence[int], learners: Sequence[int]) -> ConfState:
        return ConfState(tuple(map(ReplicaId, voters)), tuple(map(ReplicaId, learners)))

    def make_hard_state(self, term: int, vote: int, commit: int) -> HardState:
        return HardState(Term(term), ReplicaId(vote), Index(commit))

    def make_message(self, *, type: str, entries: Sequence[EntryView] = (), **fields: Any) -> MessageView:
        unwrapped = tuple(view.entry for view in entries)
        return MessageView(Message(MESSAGE_TYPES[type], entries=unwrapped, **fields))

    def make_entry(self, term: int, index: int, data: bytes) -> EntryView:
        return EntryView(Entry(Term(term), Index(index), EntryType.NORMAL, data))

    def make_conf_change(self, *, v1: bool, transition: str, changes: Sequence[tuple[str, int]]) -> Any:
        singles = _single_changes(changes)
        if v1:
            return ConfChange(singles[0].type, singles[0].replica_id)
        return ConfChangeV2(tuple(singles), TRANSITIONS[transition])

    def decode_conf_change(self, view: EntryView) -> ConfChangeView:
        change = decode_conf_change(view.entry)
        if isinstance(change, ConfChange):
            singles: Sequence[SingleChange] = [SingleChange(change.type, change.replica_id)]
            transition = Transition.AUTO
        else:
            singles, transition = change.changes, change.transition
        letters = [(LETTERS[single.type], int(single.replica_id)) for single in singles]
        return ConfChangeView(transition.name, letters, change.context)

    def entry_size(self, view: EntryView) -> int:
        return entry_size(view.entry)


# The pure suites.


class Quorum:
    @staticmethod
    def _config(cfg: tuple[set[int], set[int] | None]) -> JointConfig:
        halves = [MajorityConfig(frozenset(map(ReplicaId, half or ()))) for half in cfg]
        return JointConfig(halves[0], halves[1])

    def committed_index(self, cfg: tuple[set[int], set[int] | None], acked: Mapping[int, int]) -> int:
        return self._config(cfg).committed_index({ReplicaId(key): Index(index) for key, index in acked.items()})

    def vote_result(self, cfg: tuple[set[int], set[int] | None], votes: Mapping[int, bool]) -> str:
        result = self._config(cfg).vote_result({ReplicaId(key): vote for key, vote in votes.items()})
        return f"Vote{result.name.title()}"


class ConfChangeSuiteChanger:
    def __init__(self, max_inflight: int, max_inflight_bytes: int) -> None:
        self._tracker = ProgressTracker(max_inflight, max_inflight_bytes or NO_LIMIT)

    def _take(self, method: str, last_index: int, *arguments: Any, **keywords: Any) -> None:
        try:
            outcome = getattr(Changer(self._tracker.membership), method)(*arguments, **keywords)
        except ConfChangeError as error:
            raise _kit_error(str(error)) from error
        self._tracker.adopt(outcome.membership, outcome.forgotten, Index(last_index))

    def simple(self, changes: Sequence[tuple[str, int]], last_index: int) -> None:
        self._take("simple", last_index, _single_changes(changes))

    def enter_joint(self, auto_leave: bool, changes: Sequence[tuple[str, int]], last_index: int) -> None:
        self._take("enter_joint", last_index, _single_changes(changes), auto_leave=auto_leave)

    def leave_joint(self, last_index: int) -> None:
        self._take("leave_joint", last_index)

    def config(self) -> Any:
        return MembershipView(self._tracker.membership)

    def progress(self) -> Mapping[int, ProgressStatus]:
        return {replica: ProgressStatus.of(one) for replica, one in self._tracker.progress.items()}


class MembershipView:
    def __init__(self, membership: Membership) -> None:
        self.voters = membership.voters
        self.voters_outgoing = membership.outgoing
        self.learners = membership.learners
        self.learners_next = membership.learners_next
        self.auto_leave = membership.auto_leave


class ConfChangeSuite:
    def new_changer(self, max_inflight: int, max_inflight_bytes: int) -> ConfChangeSuiteChanger:
        return ConfChangeSuiteChanger(max_inflight, max_inflight_bytes)


def quorum() -> Quorum:
    return Quorum()


def confchange() -> ConfChangeSuite:
    return ConfChangeSuite()


def core() -> Core:
    return Core()


__all__ = ["confchange", "core", "quorum"]
