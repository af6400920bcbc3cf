"""What a replica is told by its configuration: frozen, with units in the names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """Bounds and timings of one replica. The daemon fills it from ServerConfig; tests shorten it."""

    tick_s: float = 0.05
    heartbeat_ticks: int = 2
    election_ticks: int = 16
    batch_commands_max: int = 1_024  # commands in one log entry
    batch_bytes_max: int = 256 * 1024  # payload of one log entry made of several requests
    gather_s: float = 0.05  # at most so long what comes waits for an entry that is on its round, to be the next one together
    apply_commands_max: int = 512  # applied in one turn of the loop
    proposals_waiting_max: int = 16_384  # commands that wait to be appended
    proposals_waiting_bytes_max: int = 64 << 20
    messages_waiting_max: int = 4_096  # from peers; what comes beyond is dropped and sent again
    append_message_bytes_max: int = 1 << 20  # entries in one message to a follower
    inflight_messages_max: int = 64  # appends under way to one follower
    inflight_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 64 << 20  # of a leader's log
    committed_bytes_max: int = 4 << 20  # handed out for applying at once
    log_retain_entries: int = 10_000  # kept behind what is flushed, so that a follower that was away needs no snapshot
    log_retain_bytes_max: int = 1 << 30  # of the log, kept at most, whoever needs it
    db_size_max_bytes: int = 8 << 30
    checksum_interval_s: float = 3_600.0  # between two comparisons of all replicas' states; 0: only when asked

    @property
    def election_timeout_s(self) -> float:
        """The shortest election timeout: no follower campaigns earlier after it heard a leader."""
        return self.election_ticks * self.tick_s
