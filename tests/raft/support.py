"""A replica with its storage and a recording machine, and small builders: what the tests of the core drive it with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from ravel_node.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NO_LIMIT,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Index,
    MemoryStorage,
    Message,
    MessageType,
    RaftConfig,
    RaftError,
    RaftEvent,
    RawNode,
    ReadState,
    Ready,
    ReplicaId,
    Role,
    Snapshot,
    Status,
    Term,
    decode_conf_change,
)
from ravel_node.raft.core import Raft

ONE, TWO, THREE, FOUR, FIVE = (ReplicaId(number) for number in range(1, 6))


def ids(*numbers: int) -> tuple[ReplicaId, ...]:
    return tuple(ReplicaId(number) for number in numbers)


def conf(*voters: int, learners: Iterable[int] = ()) -> ConfState:
    return ConfState(voters=ids(*voters), learners=ids(*learners))


def entry(term: int, index: int, data: bytes = b"", kind: EntryType = EntryType.NORMAL) -> Entry:
    return Entry(Term(term), Index(index), kind, data)


def entries(*terms: int, first: int = 1) -> list[Entry]:
    """Entries of these terms, one after the other."""
    return [entry(term, first + offset, f"{term}/{first + offset}".encode()) for offset, term in enumerate(terms)]


def message(kind: MessageType, **fields: Any) -> Message:
    return Message(kind, **fields)


def log_of(raw: RawNode) -> list[Entry]:
    """Everything in the log that is not compacted, durable or not."""
    log = raft_of(raw).log
    return list(log.entries(log.first_index, NO_LIMIT))


def raft_of(raw: RawNode) -> Raft:
    return raw._raft


class Replica:
    """One replica with everything around its core. `crash()` loses what a crash loses.

    In synchronous mode `work()` carries out all that is ready. In asynchronous mode it hands saves and applies to two
    queues, and `save()` and `apply()` carry out the oldest of each.
    """

    def __init__(self, id: ReplicaId, storage: MemoryStorage, *, seed: int = 0, **config: Any) -> None:
        self.id = id
        self.storage = storage
        self.applied_at_start = config.pop("applied", Index(0))
        self.config = config
        self.seed = seed
        self.starts = 0
        self.outbox: list[Message] = []
        self.reads: list[ReadState] = []
        self.events: list[RaftEvent] = []
        self.applied: list[Entry] = []  # everything applied since the start, for tests that look at it
        self.readies: list[Ready] = []
        self.saves: deque[Message] = deque()
        self.applies: deque[Message] = deque()
        self.machine = Machine(storage.snapshot(), storage.initial_state()[1], self.applied_at_start)
        self.raw = self._start()

    def _start(self) -> RawNode:
        settings: dict[str, Any] = {
            "election_ticks": 10,
            "heartbeat_ticks": 1,
            "check_quorum": False,
            "pre_vote": False,
            "step_down_on_removal": False,
        }
        config = RaftConfig(id=self.id, applied=self.machine.applied, **(settings | self.config))
        self.starts += 1
        return RawNode(config, self.storage, Random(f"{self.seed}, replica {self.id}, start {self.starts}"))

    @property
    def asynchronous(self) -> bool:
        return bool(self.config.get("async_storage_writes"))

    @property
    def raft(self) -> Raft:
        return raft_of(self.raw)

    @property
    def status(self) -> Status:
        return self.raw.status()

    @property
    def log(self) -> list[Entry]:
        return log_of(self.raw)

    # Carrying out.

    def work(self) -> list[Message]:
        """Carry out every Ready and return what was sent since the last call."""
        while self.raw.has_ready():
            self.carry_out(self.raw.ready())
        self.events += self.raw.take_events()
        sent, self.outbox = self.outbox, []
        return sent

    def carry_out(self, ready: Ready) -> None:
        self.readies.append(ready)
        self.reads += ready.read_states
        self.events += ready.events
        if self.asynchronous:
            for one in ready.messages:
                {LOCAL_APPEND: self.saves, LOCAL_APPLY: self.applies}.get(one.to, self.outbox).append(one)
            return
        self._save(ready.hard_state, ready.snapshot, ready.entries)
        self._apply(ready.committed_entries)
        self.outbox += ready.messages
        self.raw.advance()

    def save(self) -> bool:
        """Carry out the oldest save. False if there is none."""
        if not self.saves:
            return False
        save = self.saves.popleft()
        hard_state = HardState(save.term, save.vote, save.commit)
        self._save(hard_state if hard_state != HardState() else None, save.snapshot, save.entries)
        self._respond(save)
        return True

    def apply(self) -> bool:
        """Carry out the oldest apply. False if there is none."""
        if not self.applies:
            return False
        work = self.applies.popleft()
        self._apply(work.entries)
        self._respond(work)
        return True

    def settle(self) -> list[Message]:
        """Carry out everything there is to do here, without any message from outside."""
        sent = self.work()
        while self.save() or self.apply():
            sent += self.work()
        return sent

    def _respond(self, work: Message) -> None:
        for response in work.responses:
            if response.to == self.id:
                self.step(response)
            else:
                self.outbox.append(response)

    def _save(self, hard_state: HardState | None, snapshot: Snapshot | None, entries: Sequence[Entry]) -> None:
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
            self.machine.install(snapshot)
        self.storage.append(entries)

    def _apply(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            if one.index <= self.machine.applied:
                continue  # a snapshot came in between
            conf_state = None
            if one.type is not EntryType.NORMAL:
                conf_state = self.raw.apply_conf_change(decode_conf_change(one), one.index)
            self.machine.apply(one, conf_state)
            self.applied.append(one)

    # Feeding.

    def step(self, one: Message) -> None:
        """Take a message as a transport would: refusals are dropped."""
        try:
            self.raw.step(one)
        except RaftError:
            return

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.raw.tick()

    def crash(self) -> None:
        """Lose everything that is not durable, and start again."""
        self.saves.clear()
        self.applies.clear()
        self.outbox.clear()
        self.machine.crash()
        self.storage.set_conf_state(self.machine.conf_state)
        self.raw = self._start()

    def snapshot_and_compact(self, index: Index) -> None:
        """Make a snapshot of what is applied durably and drop the log up to `index`, or up to the snapshot."""
        self.machine.flush()
        at = self.machine.applied
        if at > self.storage.snapshot().index and at <= self.storage.last_index():
            self.storage.create_snapshot(at, self.machine.conf_state, self.machine.state)
        index = min(index, self.storage.snapshot().index)
        if index >= self.storage.first_index():
            self.storage.compact(index)


class Machine:
    """A state machine whose state is the fold of what it applied; it insists on order, and keeps what it flushed."""

    def __init__(self, snapshot: Snapshot, conf_state: ConfState, applied: Index) -> None:
        self.applied = max(snapshot.index, applied)
        self.state = snapshot.data
        self.conf_state = conf_state
        self._flushed = (self.applied, self.state, self.conf_state)

    def apply(self, one: Entry, conf_state: ConfState | None) -> None:
        assert one.index == self.applied + 1, f"entry {one.index} applied after {self.applied}"
        self.applied = one.index
        self.state = b"%d" % hash((self.state, one.term, one.data))
        self.conf_state = conf_state or self.conf_state

    def install(self, snapshot: Snapshot) -> None:
        assert snapshot.index > self.applied, f"snapshot {snapshot.index} installed over {self.applied}"
        self.applied, self.state, self.conf_state = snapshot.index, snapshot.data, snapshot.conf_state
        self.flush()

    def flush(self) -> None:
        self._flushed = (self.applied, self.state, self.conf_state)

    def crash(self) -> None:
        self.applied, self.state, self.conf_state = self._flushed


def replica(
    id: int = 1,
    voters: Sequence[int] = (1, 2, 3),
    *,
    learners: Sequence[int] = (),
    log: Sequence[Entry] = (),
    hard_state: HardState | None = None,
    seed: int = 0,
    **config: Any,
) -> Replica:
    """A replica whose durable log is `log`."""
    storage = MemoryStorage.restore(
        hard_state or HardState(),
        Snapshot(conf_state=conf(*voters, learners=learners)),
        log,
    )
    return Replica(ReplicaId(id), storage, seed=seed, **config)


def elected(id: int = 1, voters: Sequence[int] = (1, 2, 3), **options: Any) -> Replica:
    """A leader, elected by the votes of all others, whose first entry is sent and not acknowledged."""
    leader = replica(id, voters, **options)
    leader.raw.campaign()
    leader.settle()
    for phase in (MessageType.PRE_VOTE_RESPONSE, MessageType.VOTE_RESPONSE):
        if phase is MessageType.PRE_VOTE_RESPONSE and leader.raw.role is not Role.PRE_CANDIDATE:
            continue
        ahead = 1 if phase is MessageType.PRE_VOTE_RESPONSE else 0
        term = Term(leader.raw.term + ahead)
        for other in voters:
            if other != id and not leader.raw.is_leader:
                leader.step(Message(phase, from_=ReplicaId(other), to=leader.id, term=term))
        leader.settle()
    assert leader.raw.is_leader
    return leader


def acknowledge(leader: Replica, *peers: int, index: int | None = None) -> list[Message]:
    """Let `peers` acknowledge everything, or up to `index`; returns what the leader sends then."""
    for peer in peers:
        at = Index(leader.raw.last_index if index is None else index)
        answer = Message(
            MessageType.APPEND_RESPONSE,
            from_=ReplicaId(peer),
            to=leader.id,
            term=leader.raw.term,
            index=at,
        )
        leader.step(answer)
    return leader.settle()


def settled_leader(id: int = 1, voters: Sequence[int] = (1, 2, 3), **options: Any) -> Replica:
    """A leader whose first entry everybody has, committed and applied; nothing is on its way."""
    leader = elected(id, voters, **options)
    others = [other for other in (*voters, *options.get("learners", ())) if other != id]
    acknowledge(leader, *others)
    # Peers that are still probed answer the probe that follows the commit.
    acknowledge(leader, *others)
    leader.events.clear()
    return leader


def of_type(messages: Iterable[Message], kind: MessageType, to: int | None = None) -> list[Message]:
    return [one for one in messages if one.type is kind and (to is None or one.to == to)]
