"""How a replica sees itself and, if it leads, the others: put together from core, store, driver and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import all_replicas
from ravel_node.raft import ConfState, Index, RawNode, ReplicaId, Status
from ravel_node.replica.alarms import AlarmBoard, Breach, Lookout
from ravel_node.replica.driver import Driver
from ravel_node.replica.events import EventLog
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.snapshots import Sending
from ravel_node.replica.status import Alarm, Counters, Member, MemberRole, PeerView, ReplicaStatus
from ravel_node.replica.vitals import Vitals
from ravel_node.storage.base import Store
from ravel_node.transport.base import PeerStats
from ravelpb.alarms import KIND_OF


class Seat(NamedTuple):
    """What its owner alone knows of a replica, at one moment."""

    ready: bool
    removed: bool
    contact_age_s: float  # since it heard the leader; 0 on the leader


class SelfView:
    """Looks at one replica; changes nothing of it but its alarms. Runs on the loop and never waits."""

    def __init__(
        self,
        *,
        replica_id: ReplicaId,
        boot_id: str,
        raw: RawNode,
        store: Store,
        machine: KVMachine,
        driver: Driver,
        vitals: Vitals,
        events: EventLog,
        options: ReplicaOptions,
        clock: Callable[[], float],
        stats_of: Callable[[ReplicaId], PeerStats],
        name_of: Callable[[ReplicaId], str],
        sending: Mapping[ReplicaId, Sending],
        seat: Callable[[], Seat],
    ) -> None:
        """`sending` is the owner's own, as it changes."""
        self._id = replica_id
        self._boot_id = boot_id
        self._raw = raw
        self._store = store
        self._machine = machine
        self._driver = driver
        self._vitals = vitals
        self._options = options
        self._clock = clock
        self._stats_of = stats_of
        self._name_of = name_of
        self._sending = sending
        self._seat = seat
        self._started_at = clock()
        self._lookout = Lookout(name_of)
        self._board = AlarmBoard(events, name_of)

    # --- alarms

    def look_out(self) -> None:
        """Look for what is amiss: once in `alarms.LOOK_S`."""
        now = self._clock()
        self._board.looked(self._lookout.look(self.status(), now), now)

    def raise_alarm(self, code: str, message: str, subject: ReplicaId | None = None) -> None:
        """One that needs no second look, of this replica or of another one. It stays until `clear_alarm`, or a restart."""
        self._board.raise_now(Breach(code, self._id if subject is None else subject, message), self._clock())

    def clear_alarm(self, code: str, subject: ReplicaId) -> None:
        """What `raise_alarm` told is over; one that does not stand is no error."""
        self._board.clear(code, subject)

    def leadership_ended(self) -> None:
        self._board.leadership_ended()

    def _alarms(self, peers: Iterable[PeerView], now: float) -> Iterable[Alarm]:
        yield from self._board.raised(now)
        for peer in peers:
            if peer.snapshot_index and (sending := self._sending.get(peer.replica_id)) is not None:
                elapsed_s = now - sending.began_at
                text = (
                    f"{self._name_of(peer.replica_id)} is installing snapshot {peer.snapshot_index}{_progress(peer, elapsed_s)}"
                )
                yield Alarm("RV207", text, peer.replica_id, KIND_OF["RV207"].severity, elapsed_s)

    # --- status

    def members(self) -> list[Member]:
        """Everyone in the configuration, by id."""
        conf_state = self._machine.conf_state
        known = self._machine.members
        return [
            Member(known[replica_id], _role(replica_id, conf_state))
            for replica_id in sorted(all_replicas(conf_state))
            if replica_id in known
        ]

    def status(self) -> ReplicaStatus:
        raw, store, driver, vitals, now = self._raw, self._store, self._driver, self._vitals, self._clock()
        core, seat = raw.status(), self._seat()
        leader = self._machine.members.get(raw.leader)
        snapshots = store.snapshots()
        peers = tuple(self._peer_views(core, now))
        return ReplicaStatus(
            cluster_id=store.identity.cluster_id,
            cluster_name=self._machine.cluster_name,
            replica_id=self._id,
            role=raw.role,
            term=raw.term,
            leader_id=raw.leader,
            leader_address=leader.listen if leader else "",
            first_index=store.first_index(),
            last_index=raw.last_index,
            commit_index=raw.commit,
            applied_index=store.applied.index,
            flushed_index=store.flushed.index,
            revision=self._machine.revision,
            config_index=Index(self._machine.config_index),
            members=tuple(self.members()),
            progress=peers,
            leader_age_s=now - driver.leader_since,
            contact_age_s=seat.contact_age_s,
            db_used_bytes=store.db_used_bytes,
            db_map_bytes=store.db_map_bytes,
            db_size_max_bytes=self._options.db_size_max_bytes,
            log_used_bytes=store.log_used_bytes,
            uptime_s=now - self._started_at,
            boot_id=self._boot_id,
            snapshot_index=Index(snapshots[0].header.index) if snapshots else Index(0),
            ready=seat.ready,
            removed=seat.removed,
            lease_remaining_s=driver.reads.lease_remaining_s,
            transferee_id=core.transferee,
            election_timeout_s=self._options.election_timeout_s,
            heartbeat_s=self._options.heartbeat_ticks * self._options.tick_s,
            vote_id=core.vote,
            votes=core.votes,
            elections_1h=vitals.elections_1h,
            leader_changes_1h=vitals.leader_changes_1h,
            fsync=vitals.fsync.summary(now),
            apply=vitals.apply.summary(now),
            commit=vitals.commit.summary(now),
            saving_s=driver.saving_s,
            counters=Counters(now, vitals.writes, vitals.reads, vitals.trail.appended_bytes, vitals.elections),
            alarms=tuple(self._alarms(peers, now)),
        )

    def _peer_views(self, core: Status, now: float) -> Iterable[PeerView]:
        driver, vitals = self._driver, self._vitals
        for peer, progress in core.progress.items():
            if peer == self._id:
                continue
            stats = self._stats_of(peer)
            heard = driver.heard.get(peer)
            if heard is not None and heard < driver.leader_since:
                heard = None  # its vote, say: what it holds is not known from that
            yield PeerView(
                replica_id=peer,
                state=int(progress.state),
                match=progress.match,
                next=progress.next,
                paused=progress.paused,
                recent_active=progress.recent_active,
                inflight=progress.inflight_count,
                inflight_max=self._options.inflight_messages_max,
                contact_age_s=None if heard is None else now - heard,
                snapshot_index=Index(stats.snapshot_index),
                snapshot_sent_bytes=stats.snapshot_sent_bytes,
                snapshot_size_bytes=stats.snapshot_size_bytes,
                lag=vitals.trail.lag(progress.match, now),
                ack=vitals.acks.summary(peer, now),
            )


def _progress(peer: PeerView, elapsed_s: float) -> str:
    """How far a transfer is, and how long it may still take at the pace so far."""
    sent, size = peer.snapshot_sent_bytes, peer.snapshot_size_bytes
    if not sent or not size:
        return ""
    left_s = (size - sent) * elapsed_s / sent
    return f" ({sent / size:.0%}, about {left_s:.0f}s left)"


def _role(replica_id: ReplicaId, conf_state: ConfState) -> MemberRole:
    if replica_id in conf_state.voters:
        return MemberRole.VOTER
    if replica_id in conf_state.voters_outgoing and replica_id not in conf_state.learners_next:
        return MemberRole.LEAVING
    return MemberRole.LEARNER
