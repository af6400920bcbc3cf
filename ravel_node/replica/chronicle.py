"""Turns what the core, the driver and the replica do into events with a stable name and a sentence.

The names, with their kinds, are the contract that docs/operations.md lists. What repeats for as long as a trouble lasts is told
when it begins: a replica that is cut off polls again and again, and would push everything else out of the newest thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ravel_node.raft import (
    ConfChangeIgnored,
    ElectionLost,
    ElectionStarted,
    ElectionWon,
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

    def leader(self, leader: ReplicaId, term: Term) -> None:
        """Whom the replica follows, or is, from now on; 0: nobody. Repeating the same tells nothing."""
        before, before_term = self._leader, self._leader_term
        if (leader, term) == (before, before_term) or leader == before == 0:
            return
        self._leader = leader
        if leader:
            self._leader_term = term
            text = f"{self._name_of(leader)} leads in term {term}"
            self._events.record(EventKind.LEADERSHIP, "leader-known", text, {"leader_id": leader}, term=term)
            self._polls, self._polled_at, self._poll_s = 0, None, None
            if self._heir:
                self._transfer_ended(leader, term)
        else:
            text = f"no leader is known; {self._name_of(before)} led in term {before_term}"
            self._events.record(EventKind.LEADERSHIP, "leader-lost", text, {"leader_id": before}, term=term)

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


def _ids(replicas: Iterable[ReplicaId]) -> str:
    return ",".join(map(str, replicas))
