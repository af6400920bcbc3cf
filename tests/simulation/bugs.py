"""Bugs to plant into the product, to prove that the simulator sees them. Each leaves one rule out, by a small patch.

A simulator that finds nothing proves nothing: so every rule that keeps data safe is taken out once, and some seed must fail. How
many seeds that took is measured by `make sim-bugs`; `seeds_max` is a bound well above it. Most show in the first few,
those that need a failing disk or a plot in about one of twenty to forty.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final
from unittest.mock import patch

from ravel_node.machine import kv as kv_module
from ravel_node.machine import sessions as sessions_module
from ravel_node.machine.base import Database
from ravel_node.machine.sessions import Admission, Sessions
from ravel_node.raft.core import Raft
from ravel_node.raft.log import RaftLog
from ravel_node.raft.types import (
    NO_LIMIT,
    NO_REPLICA,
    ConfState,
    HardState,
    Index,
    Message,
    MessageType,
    ReadState,
    ReplicaId,
    Snapshot,
    Term,
)
from ravel_node.replica import driver as driver_module
from ravel_node.replica import reads as reads_module
from ravel_node.replica import replica as replica_module
from ravel_node.replica.driver import Driver
from ravel_node.replica.peer_marks import PeerMarks
from ravel_node.replica.reads import Reads
from ravel_node.replica.replica import Replica
from ravel_node.storage import memory as memory_module
from ravel_node.storage import snapshots as snapshots_module
from ravel_node.storage import state_store as state_store_module
from ravel_node.storage import store as store_module
from ravel_node.storage.base import Save, StoreFailedError
from ravel_node.storage.engine import WriteTxn
from ravel_node.storage.keys import APPLIED, STATE_NAMES, STORE
from ravel_node.storage.log_store import LogStore
from ravel_node.storage.memory import Records
from ravel_node.storage.table import Segment, Table

Plant = Callable[[Callable[[object, str, object], None]], None]
"""Puts a bug in place with the function it is given: (object, name of an attribute, what takes its place)."""


@dataclass(frozen=True, slots=True)
class Bug:
    name: str
    rule: str  # what is left out
    plant: Plant
    seeds_max: int  # some seed of 1 to this fails


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The product with one bug in it."""
    with ExitStack() as patches:

        def put(owner: object, name: str, value: object) -> None:
            patches.enter_context(patch.object(owner, name, value))

        bug.plant(put)
        yield


Put = Callable[[object, str, object], None]


# --- votes, commits, saves


def _vote_not_stored(put: Put) -> None:
    real = driver_module._save_of

    def save_of(message: Message) -> Save:
        save = real(message)
        if save.hard_state is not None:
            save.hard_state = HardState(save.hard_state.term, NO_REPLICA, save.hard_state.commit)
        return save

    put(driver_module, "_save_of", save_of)


def _sent_before_stored(*kinds: MessageType) -> Plant:
    def plant(put: Put) -> None:
        real = Raft.send_after_append

        def send(self: Raft, message: Message) -> None:
            if message.type in kinds and message.to != self.id:
                message.from_ = self.id
                self.messages.append(message)
            else:
                real(self, message)

        real_hold = Driver._hold

        def hold(self: Driver, message: Message) -> None:
            if message.type in kinds:
                self._router.send((message,))
            else:
                real_hold(self, message)

        put(Raft, "send_after_append", send)
        put(Driver, "_hold", hold)

    return plant


def _commit_of_an_old_term(put: Put) -> None:
    def commit(self: RaftLog, index: Index, term: Term) -> bool:
        if index <= self.committed:
            return False
        self.commit_to(index)
        return True

    put(RaftLog, "commit_if_term", commit)


def _on_after_a_failed_save(put: Put) -> None:
    real = LogStore.save

    class Forgetful:
        """Takes every write and does none."""

        async def write(self, job: object) -> None:
            pass

    async def save(self: LogStore, saves: Sequence[Save], state: int | None = None) -> None:
        try:
            await real(self, saves, state)
        except StoreFailedError:
            env: Any = self._env
            env.forgive()
            self._env = Forgetful()  # type: ignore[assignment]
            await real(self, saves, state)
            self._env = env

    put(LogStore, "save", save)


# --- state and snapshots


def _snapshot_without_membership(put: Put) -> None:
    real = snapshots_module.snapshot_of

    def snapshot_of(header: Any) -> Snapshot:
        return replace(real(header), conf_state=ConfState(voters=real(header).conf_state.voters[:1]))

    put(store_module, "snapshot_of", snapshot_of)


def _membership_not_stored(put: Put) -> None:
    put(kv_module, "write_membership", lambda txn, conf_state, index: None)


def _applied_index_not_stored(put: Put) -> None:
    real = state_store_module.write_segment

    def write(txn: WriteTxn, segment: Segment, at: Any, file: str) -> None:
        before = txn.get(STORE, APPLIED)
        real(txn, segment, at, file)
        if before is not None:
            txn.put(STORE, APPLIED, before)

    put(state_store_module, "write_segment", write)


def _flushed_out_of_order(put: Put) -> None:
    def drop(self: Table, flushed: Segment) -> None:
        segment = self._sealed.pop()
        self.sealed_bytes -= segment.size
        self._flushed = segment.last
        self._relink()

    put(Table, "oldest", property(lambda self: self._sealed[-1] if self._sealed else None))
    put(Table, "drop_oldest", drop)


def _dropped_before_flushed(put: Put) -> None:
    """The segment that is being flushed is not looked into any more, although the state below does not show it yet."""
    real = Table._relink

    def relink(self: Table) -> None:
        first, self._sealed = self._sealed[:1], self._sealed[1:]
        real(self)
        self._sealed = first + self._sealed

    put(Table, "_relink", relink)


# --- sessions


def _results_lost_in_a_snapshot(put: Put) -> None:
    real = memory_module._encode

    def encode(databases: dict[str, Records]) -> bytes:
        return real({**databases, STATE_NAMES[Database.RESULTS]: Records(False)})

    put(memory_module, "_encode", encode)


def _results_not_loaded(put: Put) -> None:
    real = Sessions.open

    class WithoutResults:
        def __init__(self, reader: Any) -> None:
            self._reader = reader

        def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
            return iter(()) if database is Database.RESULTS else self._reader.scan(database, start, end)

    put(Sessions, "open", lambda self, reader: real(self, WithoutResults(reader)))  # type: ignore[arg-type]


def _retry_applied_twice(put: Put) -> None:
    def sort_out(client_id: int, session: object, commands: Any, sequences: Any, txn: object) -> Admission:
        return Admission(client_id, None, commands, sequences)

    put(sessions_module, "_sort_out", sort_out)


# --- reads


def _time_taken_after_the_round(put: Put) -> None:
    real = Reads.confirmed

    def confirmed(self: Reads, states: list[ReadState], term: Term, applied: Index) -> None:
        self._rounds = {context: asked._replace(asked_at=self._clock()) for context, asked in self._rounds.items()}
        real(self, states, term, applied)

    put(Reads, "confirmed", confirmed)


def _lease_not_ended_by(*callers: str) -> Plant:
    def plant(put: Put) -> None:
        real = Reads.end_lease

        def end(self: Reads) -> None:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and frame.f_code.co_name == "fail_all":
                frame = frame.f_back
            if frame is None or frame.f_code.co_name not in callers:
                real(self)

        put(Reads, "end_lease", end)

    return plant


def _lease_despite_transfer(put: Put) -> None:
    put(Reads, "bar_lease", lambda self, term: None)


def _lease_read_before_applied(put: Put) -> None:
    put(Reads, "lease_holds", lambda self, applied, commit: self._clock() < self._lease_until)


def _round_read_before_applied(put: Put) -> None:
    real = Reads.release
    put(Reads, "release", lambda self, applied: real(self, Index(1 << 62)))


def _votes_at_once_after_restart(put: Put) -> None:
    put(replica_module, "_silent_ticks", lambda store, options: NO_LIMIT)


def _lease_lasts(share: float, more_ticks: float = 0.0) -> Plant:
    """A lease of another share of what was promised, and so many ticks more."""

    def plant(put: Put) -> None:
        put(reads_module, "LEASE_SHARE", share)
        if more_ticks:

            def promise_us(election_ticks: int, tick_s: float) -> int:
                return int((election_ticks - 1 + more_ticks) * tick_s * 1e6)

            put(driver_module, "vote_promise_us", promise_us)
            put(replica_module, "vote_promise_us", promise_us)

    return plant


def _clock_stops_in_sleep(put: Put) -> None:
    """The lease is measured by the clock of the loop, which does not see that the machine was asleep."""
    real = Reads.__init__

    def init(self: Reads, **arguments: Any) -> None:
        real(self, **{**arguments, "clock": asyncio.get_running_loop().time})

    put(Reads, "__init__", init)


def _promise_not_kept(put: Put) -> None:
    put(Raft, "promises", property(lambda self: False))


def _promise_forgotten_in_a_new_term(put: Put) -> None:
    """A replica that is moved to a later term by anything but a leader believes that it has promised nothing."""
    real = Raft.become_follower

    def become_follower(self: Raft, term: Term, leader: ReplicaId) -> None:
        moved = term > self.term and leader == NO_REPLICA
        real(self, term, leader)
        if moved:
            self.silent_ticks = self.config.election_ticks

    put(Raft, "become_follower", become_follower)


def _own_timing_for_all(put: Put) -> None:
    """The lease counts on the leader's own timing, whatever those who confirm it have promised."""
    real = Reads.confirmed

    def confirmed(self: Reads, states: list[ReadState], term: Term, applied: Index) -> None:
        real(self, [state._replace(promise_us=NO_LIMIT) for state in states], term, applied)

    put(Reads, "confirmed", confirmed)


def _restored_directory_admitted(put: Put) -> None:
    put(PeerMarks, "objection", lambda self, hello: "")


def _sent_before_its_term_is_stored(put: Put) -> None:
    def hold(self: Driver, message: Message) -> None:
        self._router.send((message,))

    put(Driver, "_hold", hold)


def _clock_read_too_early(put: Put) -> None:
    """The clock is read at the end of each turn, for the requests of the next one: the process may be stopped in between."""
    real = Driver._pump
    read: dict[Reads, float] = {}

    def pump(self: Driver) -> None:
        real(self)
        read[self.reads] = self._clock()

    put(Driver, "_pump", pump)
    put(Reads, "lease_holds", lambda self, applied, commit: applied >= commit and read.get(self, 0.0) < self._lease_until)


def _ticks_in_a_burst(put: Put) -> None:
    """A replica that was stopped makes up for the ticks that it has missed."""
    real = Driver._tick

    def tick(self: Driver) -> None:
        missed = round(-self._until_tick_s() / self._options.tick_s) if self._ticked_at else 0
        real(self)
        for _ in range(missed):
            self._raw.tick()

    put(Driver, "_tick", tick)


def _quorum_read_leased(put: Put) -> None:
    put(Replica, "barrier_free", lambda self, mode: self._driver.reads.lease_holds(self._store.applied.index, self._raw.commit))


BUGS: Final[Sequence[Bug]] = (
    Bug("vote-not-stored", "the vote is part of what is saved", _vote_not_stored, 50),
    Bug("vote-before-save", "a vote is on disk before it is answered", _sent_before_stored(MessageType.VOTE_RESPONSE), 50),
    Bug(
        "ack-before-save",
        "entries are on disk before they are acknowledged",
        _sent_before_stored(MessageType.APPEND_RESPONSE),
        50,
    ),
    Bug("commit-of-an-old-term", "only entries of its own term does a leader commit by counting", _commit_of_an_old_term, 50),
    Bug("on-after-a-failed-save", "a replica whose save failed stops", _on_after_a_failed_save, 300),
    Bug("snapshot-without-membership", "a snapshot tells the membership of its index", _snapshot_without_membership, 50),
    Bug("membership-not-stored", "the membership is part of the state", _membership_not_stored, 50),
    Bug("applied-index-not-stored", "the applied index commits with the state", _applied_index_not_stored, 50),
    Bug("segment-out-of-order", "segments are flushed oldest first", _flushed_out_of_order, 100),
    Bug("segment-dropped-early", "a segment is read until the state below shows it", _dropped_before_flushed, 50),
    Bug("results-lost-in-a-snapshot", "a snapshot holds the sessions' results", _results_lost_in_a_snapshot, 100),
    Bug("results-not-loaded", "a restart loads the sessions' results", _results_not_loaded, 100),
    Bug("retry-applied-twice", "a write that comes again is answered and not run", _retry_applied_twice, 100),
    Bug("lease-from-the-answer", "the lease counts from before the round was asked", _time_taken_after_the_round, 150),
    Bug(
        "lease-outlives-leadership",
        "the start of a transfer, another role and another term end the lease",
        _lease_not_ended_by("bar_lease", "_role_changed", "_pump"),
        150,
    ),
    Bug("lease-outlives-configuration", "another configuration ends the lease", _lease_not_ended_by("_apply_change"), 150),
    Bug("lease-despite-transfer", "a transfer bars the lease for the rest of the term", _lease_despite_transfer, 150),
    Bug("lease-read-before-applied", "a leased read waits for the round's index", _lease_read_before_applied, 150),
    Bug("round-read-before-applied", "a confirmed read waits for the round's index", _round_read_before_applied, 150),
    Bug("votes-at-once-after-restart", "a restarted replica gives no vote for one timeout", _votes_at_once_after_restart, 150),
    Bug("lease-without-margin", "nine tenths: clocks run apart", _lease_lasts(1.0), 150),
    Bug("lease-without-a-tick", "less one tick: a timer may be about to move", _lease_lasts(0.9, 1.0), 150),
    Bug("lease-too-long", "the lease is shorter than the election timeout", _lease_lasts(1.5, 1.0), 150),
    Bug("clock-stops-in-sleep", "the clock counts on while the machine sleeps", _clock_stops_in_sleep, 150),
    Bug("ticks-in-a-burst", "ticks are never closer together than one interval", _ticks_in_a_burst, 150),
    Bug("quorum-read-leased", "a quorum read takes the round even under a lease", _quorum_read_leased, 150),
    Bug("promise-not-kept", "who hears a leader votes for nobody else", _promise_not_kept, 150),
    Bug("promise-of-one-term", "the promise to a leader outlives its term", _promise_forgotten_in_a_new_term, 300),
    Bug("lease-by-own-timing", "the lease lasts as long as those who confirm it promise", _own_timing_for_all, 150),
    Bug("restored-admitted", "a directory that is older than its marks is refused", _restored_directory_admitted, 300),
    Bug("sent-before-term-saved", "a term is on disk before anything is sent in it", _sent_before_its_term_is_stored, 50),
    Bug("clock-read-too-early", "the clock is read when the read is served", _clock_read_too_early, 150),
)
