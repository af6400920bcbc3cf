"""The settings of one replica's core, checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ravel_node.raft.errors import RaftConfigError
from ravel_node.raft.types import LOCAL_APPLY, NO_LIMIT, Index, ReplicaId

_START: Final = Index(0)


class ReadOnlyOption(IntEnum):
    """How a leader makes sure that it still leads before it answers a read (thesis 6.4)."""

    SAFE = 0  # a round of heartbeats
    LEASE_BASED = 1  # its election timeout: correct only while the clocks of all replicas run at much the same speed


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Times are in ticks, sizes in bytes; NO_LIMIT lifts a limit. Raises RaftConfigError naming every problem."""

    id: ReplicaId
    election_ticks: int = 16  # timeouts are drawn from [election_ticks, 2 * election_ticks - 1]
    heartbeat_ticks: int = 2
    applied: Index = _START  # the last index that the state machine holds durably
    async_storage_writes: bool = False  # saves and applies are messages to LOCAL_APPEND and LOCAL_APPLY
    message_bytes_max: int = 1 << 20  # entries of one append (`entry_size`); at least one always goes
    committed_bytes_max: int = 4 << 20  # committed entries handed out and not yet applied
    uncommitted_bytes_max: int = 64 << 20  # payload that a leader has appended and not yet seen applied
    inflight_messages_max: int = 256  # appends sent to one peer and not yet answered
    inflight_bytes_max: int = NO_LIMIT  # payload of these appends; the last one may cross the line
    check_quorum: bool = True  # a leader out of touch with its majority steps down; votes honour a live leader
    vote_promise_us: int = 0  # election_ticks in microseconds, as this replica measures them; sent with each heartbeat response
    silent_ticks: int = NO_LIMIT  # ticks since a leader was heard, as known at the start; below election_ticks no vote is given
    pre_vote: bool = True  # an election begins with a poll that disturbs nobody (thesis 9.6)
    read_only: ReadOnlyOption = ReadOnlyOption.SAFE
    proposal_forwarding: bool = True  # a follower passes proposals on to its leader
    conf_change_validation: bool = True  # a leader appends membership changes only when they can take effect
    step_down_on_removal: bool = True  # a leader that is no voter any more stops leading as soon as it applied that
    as_etcd: bool = False  # behave as etcd-io/raft where this core is stricter: for the transcripts of the conformance kit only

    def __post_init__(self) -> None:
        if found := list(self.problems()):
            raise RaftConfigError("; ".join(found))

    def problems(self) -> Iterator[str]:
        """Every reason why these settings cannot work, each as a sentence with its values."""
        if not 0 < self.id < LOCAL_APPLY:
            yield f"id ({self.id}) must be above 0 and below {LOCAL_APPLY}"
        if self.heartbeat_ticks <= 0:
            yield f"heartbeat_ticks ({self.heartbeat_ticks}) must be above 0"
        if self.election_ticks <= self.heartbeat_ticks:
            yield f"election_ticks ({self.election_ticks}) must exceed heartbeat_ticks ({self.heartbeat_ticks})"
        if self.applied < 0:
            yield f"applied ({self.applied}) must not be negative"
        if self.vote_promise_us < 0:
            yield f"vote_promise_us ({self.vote_promise_us}) must not be negative"
        yield from self._limit_problems()
        if self.read_only is ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            yield "read_only LEASE_BASED needs check_quorum: without it nothing ends the lease"

    def _limit_problems(self) -> Iterator[str]:
        if self.message_bytes_max < 0:
            yield f"message_bytes_max ({self.message_bytes_max}) must not be negative"
        for name in ("committed_bytes_max", "uncommitted_bytes_max", "inflight_messages_max"):
            if (value := getattr(self, name)) <= 0:
                yield f"{name} ({value}) must be above 0"
        window, message = self.inflight_bytes_max, self.message_bytes_max
        if window < message:
            yield f"inflight_bytes_max ({window}) must not be below message_bytes_max ({message})"
