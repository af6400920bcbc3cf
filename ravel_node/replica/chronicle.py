"""Turns what the core, the driver and the replica do into events with a stable name and a sentence.

The names, with their kinds, are the contract that docs/operations.md lists. What repeats for as long as a trouble lasts is told
when it begins: a replica that is cut off polls again and again, and would push everything else out of the newest thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ravel_node.raft import (
    ConfChangeIgnored,
    ElectionLost,
    ElectionStarted,
    ElectionWon,
    Index,
    RaftEvent,
    ReplicaId,
    SnapshotIgnored,
    SteppedDown,
    Term,
    TransferAborted,
    TransferIgnored,
    TransferStarted,
)
from ravel_node.replica.events import EventKind, EventLog
from ravel_node.replica.past_hour import LEADER_KNOWN
from ravel_node.replica.status import Member, MemberRole


class Chronicle:
    """Writes one replica's events. Called on the loop; never blocks or raises."""

    def __init__(
        self, events: EventLog, *, clock: Callable[[], float], name_of: Callable[[ReplicaId], str], leads: Callable[[], bool]
    ) -> None:
        """`leads` says whether this replica is the leader at the moment of a call."""
        self._events = events
        self._clock = clock
        self._name_of = name_of
        self._leads = leads
        self._leader = ReplicaId(0)
        self._leader_term = Term(0)
        self._polled_at: float | None = None  # when the poll that runs began
        self._polls = 0  # since a leader was known
        self._poll_s: float | None = None  # how long the poll took that was won last
        self._heir = ReplicaId(0)  # whom leadership is being handed to
        self._members: Mapping[ReplicaId, Member] = {}  # those who are leaving, as they were
        self._failing: set[ReplicaId] = set()  # those whom the last snapshot did not reach
        self._receiving = Index(0)  # the snapshot that came last
        self._refused = (Index(0), "")

    # --- what the core tells

    def raft_event(self, event: RaftEvent) -> None:
        match event:
            case ElectionStarted():
                self._election_started(event)
            case ElectionWon():
                self._election_won(event)
            case ElectionLost():
                self._election_lost(event)
            case SteppedDown():
                self._events.record(
                    EventKind.LEADERSHIP,
                    "stepped-down",
                    f"gave up leadership: {event.reason}",
                    {"why": event.reason},
                    term=event.term,
                )
            case TransferStarted() | TransferAborted() | TransferIgnored():
                self._transfer(event)
            case SnapshotIgnored():
                self._events.record(
                    EventKind.SNAPSHOTS,
                    "snapshot-refused",
                    f"a snapshot of index {event.index} was not taken: {event.reason}",
                    {"why": event.reason},
                    term=event.term,
                    index=event.index,
                )
            case ConfChangeIgnored():
                self._events.record(
                    EventKind.MEMBERSHIP,
                    "change-ignored",
                    f"a change of membership took no effect: {event.reason}",
                    {"why": event.reason},
                    index=event.index,
                )
            case _:
                return

    def _election_started(self, event: ElectionStarted) -> None:
        if event.pre_vote:
            self._polled_at = self._clock()
            self._polls += 1
            if self._polls == 1:
                text = f"asks whether it could win term {event.term}"
                self._events.record(EventKind.ELECTION, "poll-begun", text, term=event.term)
            return
        why = "asked to by the leader" if event.transfer else "after a won poll" if self._poll_s is not None else "alone"
        self._events.record(
            EventKind.ELECTION,
            "campaign-begun",
            f"stands for leader in term {event.term}, {why}",
            {"transfer": str(event.transfer).lower(), "polls": self._polls},
            term=event.term,
        )

    def _election_won(self, event: ElectionWon) -> None:
        if event.pre_vote:
            self._poll_s = None if self._polled_at is None else self._clock() - self._polled_at
            return
        took = "" if self._poll_s is None else f" (pre-vote {self._poll_s * 1000:.0f}ms)"
        fields = {} if self._poll_s is None else {"pre_vote_ms": f"{self._poll_s * 1000:.0f}"}
        self._events.record(
            EventKind.ELECTION,
            "election-won",
            f"won term {event.term}, votes {self._names(event.granted)}{took}",
            {"granted_by": _ids(event.granted), "refused_by": _ids(event.rejected), **fields},
            term=event.term,
        )

    def _election_lost(self, event: ElectionLost) -> None:
        if event.pre_vote and self._polls > 1:
            return
        what = "the poll" if event.pre_vote else "the election"
        votes = f"granted by {self._names(event.granted)}, refused by {self._names(event.rejected)}"
        self._events.record(
            EventKind.ELECTION,
            "poll-lost" if event.pre_vote else "election-lost",
            f"lost {what} of term {event.term}: {votes}",
            {"granted_by": _ids(event.granted), "refused_by": _ids(event.rejected)},
            term=event.term,
        )

    # --- who leads

    def leader(self, leader: ReplicaId, term: Term) -> bool:
        """Whom the replica follows, or is, from now on; 0: nobody. Repeating the same tells nothing.

        Returns whether there is a new leader, or the same one in a later term.
        """
        before, before_term = self._leader, self._leader_term
        if (leader, term) == (before, before_term) or leader == before == 0:
            return False
        self._leader = leader
        if leader:
            self._leader_term = term
            text = f"{self._name_of(leader)} leads in term {term}"
            self._events.record(EventKind.LEADERSHIP, LEADER_KNOWN, text, {"leader_id": leader}, term=term)
            self._polls, self._polled_at, self._poll_s = 0, None, None
            if self._heir:
                self._transfer_ended(leader, term)
        else:
            text = f"no leader is known; {self._name_of(before)} led in term {before_term}"
            self._events.record(EventKind.LEADERSHIP, "leader-lost", text, {"leader_id": before}, term=term)
        return leader != 0 and term != before_term

    # --- members

    def members(self, members: Sequence[Member], index: Index) -> None:
        """Who is in the configuration from now on, by the log or a snapshot up to `index`."""
        now = {member.record.replica_id: member for member in members if member.role is not MemberRole.LEAVING}
        leaving = {member.record.replica_id for member in members if member.role is MemberRole.LEAVING}
        before, self._members = self._members, now | {one: was for one, was in self._members.items() if one in leaving}
        if before == self._members:
            return
        if not before:
            names = " ".join(member.record.name for member in members)
            self._member_event("members-known", f"the members are {names}", {"members": _ids(now)}, index)
            return
        for replica_id, member in self._members.items():
            if (was := before.get(replica_id)) != member:
                self._member_changed(was, member, index)
        for replica_id in before.keys() - self._members.keys():
            gone = before[replica_id].record
            self._member_event("member-removed", f"{gone.name} was removed", _member_fields(before[replica_id]), index)

    def _member_changed(self, was: Member | None, member: Member, index: Index) -> None:
        record, role = member.record, member.role.name.lower()
        if was is None:
            name, text = "member-added", f"{role} {record.name} was added at {record.peer}"
        elif was.role is not member.role:
            promoted = member.role is MemberRole.VOTER
            name, text = "member-promoted" if promoted else "member-demoted", f"{record.name} is a {role} now"
        elif (was.record.listen, was.record.peer, was.record.name, was.record.version) == (
            record.listen,
            record.peer,
            record.name,
            record.version,
        ):
            return
        else:
            name = "member-updated"
            text = f"{was.record.name} is {record.name} {record.version} at {record.listen} and {record.peer} now"
        self._member_event(name, text, _member_fields(member), index)

    def _member_event(self, name: str, text: str, fields: Mapping[str, object], index: Index) -> None:
        self._events.record(EventKind.MEMBERSHIP, name, f"{text}, index {index}", fields, term=self._leader_term, index=index)

    # --- snapshots

    def snapshot_sending(self, to: ReplicaId, index: Index, size_bytes: int) -> None:
        """A transfer begins. After one that failed, the next ones are told once one arrives."""
        if to in self._failing:
            return
        self._snapshot(
            "snapshot-sending",
            f"sends snapshot {index} to {self._name_of(to)}: {size_bytes} bytes",
            {"to_id": to, "size_bytes": size_bytes},
            index,
        )

    def snapshot_sent(self, to: ReplicaId, index: Index, seconds: float, *, delivered: bool) -> None:
        if delivered:
            self._failing.discard(to)
        elif to in self._failing:
            return
        else:
            self._failing.add(to)
        name = "snapshot-sent" if delivered else "snapshot-failed"
        text = f"snapshot {index} {'reached' if delivered else 'did not reach'} {self._name_of(to)} after {seconds:.1f} s"
        self._snapshot(name, text, {"to_id": to, "seconds": f"{seconds:.3f}"}, index)

    def snapshot_receiving(self, sender: ReplicaId, index: Index, size_bytes: int) -> None:
        """Told again for the same snapshot when a broken transfer goes on, which is no news."""
        if index != self._receiving:
            self._receiving = index
            text = f"receives snapshot {index} from {self._name_of(sender)}: {size_bytes} bytes"
            self._snapshot("snapshot-receiving", text, {"from_id": sender, "size_bytes": size_bytes}, index)

    def snapshot_refused(self, sender: ReplicaId, index: Index, why: str) -> None:
        if (index, why) != self._refused:
            self._refused = (index, why)
            text = f"snapshot {index} from {self._name_of(sender)} was refused: {why}"
            self._snapshot("snapshot-refused", text, {"from_id": sender, "why": why}, index)

    def snapshot_installed(self, index: Index, term: Term) -> None:
        self._snapshot("snapshot-installed", f"snapshot {index} is the state now", {"snapshot_term": term}, index)

    def _snapshot(self, name: str, text: str, fields: Mapping[str, object], index: Index) -> None:
        self._events.record(EventKind.SNAPSHOTS, name, text, fields, term=self._leader_term, index=index)

    # --- the disk

    def save_stalled(self, seconds: float) -> None:
        """A leader's save hangs, and it means to hand its leadership on."""
        text = f"a save has not finished for {seconds:.1f} s: leadership is handed on"
        self._events.record(EventKind.LEADERSHIP, "save-stalled", text, {"seconds": f"{seconds:.3f}"}, term=self._leader_term)

    def flush_stalled(self, seconds: float) -> None:
        """Record that this leader applies nothing, because the flush is behind, and hands leadership over."""
        text = f"nothing could be applied for {seconds:.1f} s, because the flush is behind: leadership is handed over"
        self._events.record(EventKind.LEADERSHIP, "flush-stalled", text, {"seconds": f"{seconds:.3f}"}, term=self._leader_term)

    # --- handing leadership on

    def _transfer(self, event: TransferStarted | TransferAborted | TransferIgnored) -> None:
        heir = self._name_of(event.target)
        if isinstance(event, TransferStarted):
            self._heir = event.target
            name, text, fields = "transfer-begun", f"hands leadership to {heir}", {}
        elif isinstance(event, TransferAborted) and not self._leads():
            return  # it stepped down, as it should: who leads next will tell
        else:
            self._heir = ReplicaId(0)
            name, text, fields = "transfer-failed", f"leadership did not go to {heir}: {event.reason}", {"why": event.reason}
        self._events.record(EventKind.ACTION, name, text, {"target_id": event.target, **fields}, term=event.term)

    def _transfer_ended(self, leader: ReplicaId, term: Term) -> None:
        heir, self._heir = self._heir, ReplicaId(0)
        if leader == heir:
            text = f"leadership went to {self._name_of(heir)}"
            self._events.record(EventKind.ACTION, "transfer-done", text, {"target_id": heir}, term=term)
        else:
            text = f"leadership went to {self._name_of(leader)}, not to {self._name_of(heir)}"
            self._events.record(EventKind.ACTION, "transfer-failed", text, {"target_id": heir, "why": text}, term=term)

    def _names(self, replicas: Iterable[ReplicaId]) -> str:
        return " ".join(self._name_of(replica) for replica in replicas) or "nobody"


def _member_fields(member: Member) -> Mapping[str, object]:
    record = member.record
    return {
        "member_id": record.replica_id,
        "name": record.name,
        "role": member.role.name.lower(),
        "listen": record.listen,
        "peer": record.peer,
        "version": record.version,
    }


def _ids(replicas: Iterable[ReplicaId]) -> str:
    return ",".join(map(str, replicas))
