"""The values that the consensus core speaks in: entries, messages, hard state, configurations.

Names are those of the Raft paper (Ongaro and Ousterhout, 2014) and of Ongaro's thesis. Everything here is plain data:
no value knows how to act, and none is changed after it was handed out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, NewType

Term = NewType("Term", int)
Index = NewType("Index", int)
ReplicaId = NewType("ReplicaId", int)

NO_REPLICA: Final = ReplicaId(0)
"""No leader, no vote, no transfer target: replica ids start at 1."""

NO_LIMIT: Final = (1 << 64) - 1
"""A size or a count without bound; also the committed index of a configuration without voters."""

LOCAL_APPEND: Final = ReplicaId((1 << 64) - 1)
"""Address of the local log writer: messages to it are saves, messages from it say that a save is durable."""

LOCAL_APPLY: Final = ReplicaId((1 << 64) - 2)
"""Address of the local state machine: messages to it carry committed entries, messages from it say they are applied."""


class Role(IntEnum):
    """What a replica is in its current term."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class EntryType(IntEnum):
    """What the payload of an entry is. The numbers are on disk and on the wire."""

    NORMAL = 0
    CONF_CHANGE = 1  # one change, in the older form (`ConfChange`)
    CONF_CHANGE_V2 = 2  # any number of changes (`ConfChangeV2`)


class EntryId(NamedTuple):
    """The name of an entry. Two logs that hold the same id agree on everything up to it (log matching)."""

    term: Term
    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here


class Entry(NamedTuple):
    """One record of the log. `data` is opaque to the core; a new leader's first entry is empty."""

    term: Term
    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here
    type: EntryType = EntryType.NORMAL
    data: bytes = b""

    @property
    def id(self) -> EntryId:
        return EntryId(self.term, self.index)


class HardState(NamedTuple):
    """What must be durable before a message that rests on it leaves (paper, figure 2, persistent state)."""

    term: Term = Term(0)
    vote: ReplicaId = NO_REPLICA
    commit: Index = Index(0)


class SoftState(NamedTuple):
    """What an observer wants to know and no disk needs to."""

    leader: ReplicaId
    role: Role


@dataclass(frozen=True, slots=True)
class ConfState:
    """A membership at rest, as stored with snapshots and state. Ids ascend in every tuple."""

    voters: tuple[ReplicaId, ...] = ()
    learners: tuple[ReplicaId, ...] = ()
    voters_outgoing: tuple[ReplicaId, ...] = ()  # the old half of a joint configuration
    learners_next: tuple[ReplicaId, ...] = ()  # still voters in the outgoing half, learners once it is left
    auto_leave: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point in the log, with the membership of that point. The bytes of the state travel outside the core."""

    index: Index = Index(0)
    term: Term = Term(0)
    conf_state: ConfState = field(default_factory=ConfState)
    data: bytes = b""

    @property
    def id(self) -> EntryId:
        return EntryId(self.term, self.index)


class ChangeType(IntEnum):
    """What one membership change does to one replica. The numbers are in the log."""

    ADD_VOTER = 0
    REMOVE = 1
    UPDATE = 2  # changes nothing in the configuration
    ADD_LEARNER = 3


class Transition(IntEnum):
    """How a change of more than one voter passes through joint consensus (thesis 4.3)."""

    AUTO = 0  # joint only where it is needed, left by itself
    JOINT_IMPLICIT = 1  # joint, left by itself
    JOINT_EXPLICIT = 2  # joint, left by an empty ConfChangeV2


class SingleChange(NamedTuple):
    """One replica's part in a membership change."""

    type: ChangeType
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class ConfChange:
    """A change of one replica, in the older form."""

    type: ChangeType
    replica_id: ReplicaId
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfChangeV2:
    """Any number of changes, taken together. Without changes it leaves a joint configuration."""

    changes: tuple[SingleChange, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""


class MessageType(IntEnum):
    """Every message of the protocol. The numbers are on the wire; local ones never leave the process."""

    HUP = 0  # local: start an election
    BEAT = 1  # local: send heartbeats
    PROPOSE = 2
    APPEND = 3
    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    SNAPSHOT = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    UNREACHABLE = 10  # local: the transport could not deliver
    SNAPSHOT_STATUS = 11  # local: a snapshot was delivered, or was not (`reject`)
    CHECK_QUORUM = 12  # local: has a majority been heard of?
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESPONSE = 16
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18
    STORAGE_APPEND = 19  # local: save this
    STORAGE_APPEND_RESPONSE = 20  # local: it is durable
    STORAGE_APPLY = 21  # local: apply these
    STORAGE_APPLY_RESPONSE = 22  # local: they are applied
    FORGET_LEADER = 23  # local: become a follower without a leader


@dataclass(slots=True)
class Message:
    """One message. Which fields mean something depends on `type`; a message is not changed after it was handed out."""

    type: MessageType
    to: ReplicaId = NO_REPLICA
    from_: ReplicaId = NO_REPLICA
    term: Term = Term(0)  # 0 only on local messages and forwarded proposals and reads
    log_term: Term = Term(0)
    index: Index = Index(0)
    entries: tuple[Entry, ...] = ()
    commit: Index = Index(0)
    vote: ReplicaId = NO_REPLICA  # STORAGE_APPEND only: the hard state's vote
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: Index = Index(0)
    context: bytes = b""
    promise_us: int = 0  # HEARTBEAT_RESPONSE: for how long from now on the sender votes for nobody else; 0: it does not say
    responses: tuple[Message, ...] = ()  # STORAGE_*: what to send once the work is done


class ReadState(NamedTuple):
    """A linearizable read may be served once `index` is applied (thesis 6.4).

    `promise_us` is the longest time, in microseconds from the moment of the request, for which a quorum has promised to
    elect nobody else; 0 where too few members say what they promise.
    """

    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here
    context: bytes
    promise_us: int = 0
