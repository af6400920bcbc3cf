"""What a replica measures of itself, beside what it is.

It stands between the driver and whoever counts and logs: each thing that the driver tells is passed on, and noted here for the
status and the events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ravel_node.raft import Entry, Index, Message, MessageType, RaftEvent, ReplicaId, Role, SoftState, Term
from ravel_node.replica.acks import AckTimers
from ravel_node.replica.chronicle import Chronicle
from ravel_node.replica.events import EventLog
from ravel_node.replica.histogram import SlidingHistogram
from ravel_node.replica.past_hour import LEADER_KNOWN, PastHour, elections, leaders
from ravel_node.replica.trail import LogTrail


class Observer(Protocol):
    """Who counts and logs what the driver does. Called on the loop; must not block or raise."""

    def raft_event(self, event: RaftEvent) -> None: ...

    def saved(self, seconds: float, saves: int, entries: int) -> None: ...

    def applied(self, seconds: float, commands: int) -> None: ...

    def committed(self, seconds: float) -> None:
        """From the append of a batch on this leader to its application."""
        ...


class Vitals:
    """Measures one replica. Called on the loop; every call is cheap and none raises."""

    def __init__(
        self,
        observer: Observer,
        events: EventLog,
        *,
        clock: Callable[[], float],
        term: Term,
        last_index: Index,
        name_of: Callable[[ReplicaId], str],
        leads: Callable[[], bool],
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._events = events
        self.trail = LogTrail(last_index, clock())
        self.acks = AckTimers()
        self.fsync, self.apply, self.commit = SlidingHistogram(), SlidingHistogram(), SlidingHistogram()
        self.chronicle = Chronicle(events, clock=clock, name_of=name_of, leads=leads)
        self._term = term
        kept = events.since(0)
        self._elections = PastHour(clock, elections(kept, events.wall_ms))
        self._leaders = PastHour(clock, leaders(kept, events.wall_ms))
        # Of the newest leader that was known; 0: none ever was, and the first of all takes over from nobody.
        self._led_term = max((event.term for event in kept if event.name == LEADER_KNOWN), default=0)
        self.elections = 0
        """Elections seen since the start: each is a term that began."""
        self.writes = 0
        """Commands of clients that were proposed here and took effect."""
        self.reads = 0
        """Reads of clients that were answered here."""

    @property
    def wall_ms(self) -> int:
        """Now, in milliseconds since 1970: for people, as it jumps."""
        return self._events.wall_ms

    def raft_event(self, event: RaftEvent) -> None:
        self._observer.raft_event(event)
        self.chronicle.raft_event(event)

    def saved(self, seconds: float, saves: int, entries: int) -> None:
        self.fsync.observe(self._clock(), seconds)
        self._observer.saved(seconds, saves, entries)

    def applied(self, seconds: float, commands: int) -> None:
        self.apply.observe(self._clock(), seconds)
        self._observer.applied(seconds, commands)

    def committed(self, seconds: float) -> None:
        self.commit.observe(self._clock(), seconds)
        self._observer.committed(seconds)

    def appended(self, entries: Sequence[Entry]) -> None:
        """These entries are in the log now, in place of what stood there; durable they become later."""
        size = 0
        for entry in entries:
            size += len(entry.data)
        self.trail.appended(entries[0].index, entries[-1].index, size, self._clock())

    def sending(self, messages: Sequence[Message]) -> None:
        """These leave for peers."""
        for message in messages:
            if message.type is MessageType.APPEND and message.entries:
                self.acks.sent(message, self._clock())

    def term_changed(self, term: Term, leader: ReplicaId) -> None:
        """A later term has begun. The first that a newcomer hears of began without it."""
        if self._term:
            self.elections += 1
            self._elections.add()
        self._term = term
        self._follow(leader, term)

    def role_changed(self, before: SoftState, after: SoftState, term: Term) -> None:
        if (before.role is Role.LEADER) != (after.role is Role.LEADER):
            self.acks.forget()
        self._follow(after.leader, term)

    def _follow(self, leader: ReplicaId, term: Term) -> None:
        if self.chronicle.leader(leader, term):
            if 0 < self._led_term < term:
                self._leaders.add()
            self._led_term = term

    @property
    def elections_1h(self) -> int:
        """Elections seen in the last hour, those before a restart too."""
        return self._elections.count

    @property
    def leader_changes_1h(self) -> int:
        """The same of leaders that took over."""
        return self._leaders.count
