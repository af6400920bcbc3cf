"""A whole cluster from one seed: bad network, crashes, snapshots, membership changes; every invariant at each step.

The invariants are numbered as in the paper's figure 3 and beyond: see `Checker`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from ravel_node.raft import (
    NO_REPLICA,
    ChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryId,
    HardState,
    Index,
    MemoryStorage,
    Message,
    MessageType,
    ProposalDroppedError,
    ReplicaId,
    SafetyEvent,
    SingleChange,
    Snapshot,
    SnapshotOutdated,
    Term,
    Transition,
)
from tests.raft.support import Replica, conf, ids

LEADERS_MESSAGES = (MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT)


class Checker:
    """What must hold at any moment, over the whole run. Every method raises AssertionError."""

    def __init__(self) -> None:
        self.leaders: dict[Term, ReplicaId] = {}
        self.predecessors: dict[EntryId, tuple[Term, Entry]] = {}  # of every entry that ever stood in a log
        self.applied: dict[Index, Entry] = {}
        self.states: dict[Index, tuple[bytes, ConfState]] = {}
        self.committed: dict[Index, Term] = {}
        self.last_committed = Index(0)
        self.seen: dict[ReplicaId, tuple[Term, ReplicaId, Index, Index]] = {}  # term, vote, commit, applied
        self.led: dict[ReplicaId, tuple[Term, list[EntryId]]] = {}
        self.reads: dict[bytes, Index] = {}

    def restarted(self, one: Replica) -> None:
        """After a restart commit and applied may stand further back; term and vote may not."""
        term, vote, _, _ = self.seen.get(one.id, (Term(0), NO_REPLICA, Index(0), Index(0)))
        self.led.pop(one.id, None)
        durable, _ = one.storage.initial_state()
        # What was not saved was not promised to anybody, so only the durable vote binds.
        if durable.term < term:
            term, vote = durable.term, durable.vote
        elif not durable.vote:
            vote = NO_REPLICA
        self.seen[one.id] = (term, vote, Index(0), Index(0))

    def check(self, one: Replica) -> None:
        self._one_leader(one)
        self._monotony(one)
        self._bounds(one)
        self._log_matching(one)
        self._leader_append_only(one)
        self._commits(one)
        self._machine(one)
        assert not [event for event in one.events if isinstance(event, SafetyEvent)], one.events
        one.events.clear()
        for read in one.reads:
            assert read.index >= self.reads[read.context], "G10: a read missed a commit that was known"
        one.reads.clear()

    def _one_leader(self, one: Replica) -> None:
        if one.raw.is_leader:
            known = self.leaders.setdefault(one.raw.term, one.id)
            assert known == one.id, f"G1: {known} and {one.id} lead term {one.raw.term}"

    def _monotony(self, one: Replica) -> None:
        raft = one.raft
        term, vote, commit, applied = self.seen.get(one.id, (Term(0), NO_REPLICA, Index(0), Index(0)))
        assert raft.term >= term, "G7: the term fell"
        assert raft.term > term or vote in (NO_REPLICA, raft.vote), f"G7: voted {vote}, then {raft.vote}"
        assert raft.log.committed >= commit, "G7: commit fell"
        assert raft.log.applied >= applied, "G7: applied fell"
        self.seen[one.id] = (raft.term, raft.vote, raft.log.committed, raft.log.applied)

    def _bounds(self, one: Replica) -> None:
        raft = one.raft
        raft.log.check()
        if raft.log.unstable.snapshot is not None:
            assert raft.log.unstable.snapshot.index <= raft.log.committed, "G8"
        if one.raw.is_leader:
            for progress in raft.tracker.progress.values():
                assert progress.match < progress.next, "G8: match is not below next"
                assert progress.match <= raft.log.last_index, "G8: match lies beyond the log"
                assert progress.sent_commit <= raft.log.last_index, "G8: commit told beyond the log"

    def _log_matching(self, one: Replica) -> None:
        log = one.raft.log
        previous = log.term(Index(log.first_index - 1))
        for entry in one.log:
            known = self.predecessors.setdefault(entry.id, (previous, entry))
            assert known[1] == entry, f"G3: two entries are named {entry.id}"
            # Below the log's start the term is that of the snapshot: the same entry, known to both.
            assert known[0] == previous, f"G3: two logs that hold {entry.id} differ before it"
            previous = entry.term

    def _leader_append_only(self, one: Replica) -> None:
        raft = one.raft
        if not one.raw.is_leader:
            self.led.pop(one.id, None)
            return
        names = [entry.id for entry in one.log]
        term, before = self.led.get(one.id, (Term(0), []))
        if term == raft.term:
            kept = [name for name in before if name.index >= raft.log.first_index]
            assert names[: len(kept)] == kept, "G2: a leader changed its own log"
        else:
            self._leader_is_complete(one)
        self.led[one.id] = (raft.term, names)

    def _leader_is_complete(self, one: Replica) -> None:
        log = one.raft.log
        assert log.last_index >= self.last_committed, f"G4: leader of {one.raw.term} lacks {self.last_committed}"
        for index in range(log.first_index, self.last_committed + 1):
            assert log.term(Index(index)) == self.committed[Index(index)], f"G4: entry {index} is another one"

    def _commits(self, one: Replica) -> None:
        log = one.raft.log
        for index in range(max(log.first_index, self.last_committed + 1), log.committed + 1):
            self.committed[Index(index)] = log.term(Index(index))
        for index in range(max(log.first_index, log.committed - 4), log.committed + 1):
            assert self.committed[Index(index)] == log.term(Index(index)), f"G5: two entries are committed at {index}"
        self.last_committed = max(self.last_committed, log.committed)

    def _machine(self, one: Replica) -> None:
        for entry in one.applied:
            known = self.applied.setdefault(entry.index, entry)
            assert known == entry, f"G5: two entries were applied at {entry.index}"
        one.applied.clear()
        state = (one.machine.state, one.machine.conf_state)
        known_state = self.states.setdefault(one.machine.applied, state)
        if one.machine.applied:
            assert known_state == state, f"G5: two states at {one.machine.applied}"

    def check_sent(self, one: Replica, message: Message) -> None:
        """G6: what leaves a replica is true of its disk. G1 once more: leaders are known by what they send."""
        if message.type in LEADERS_MESSAGES:
            known = self.leaders.setdefault(message.term, one.id)
            assert known == one.id, f"G1: {known} and {one.id} lead term {message.term}"
        if message.reject:
            return
        durable, _ = one.storage.initial_state()
        if message.type is MessageType.VOTE_RESPONSE:
            assert durable.term >= message.term, "G6: a vote left before it was durable"
            assert durable.term > message.term or durable.vote == message.to, "G6: a vote left before it was durable"
        if message.type is MessageType.APPEND_RESPONSE and message.index:
            assert durable.term >= message.term, "G6: an acknowledgement left before its term was durable"
            if durable.term == message.term:
                assert one.storage.last_index() >= message.index, "G6: an acknowledgement left before its entries"


class Cluster:
    """Replicas, the messages between them, and one source of chance for everything that may go wrong."""

    def __init__(self, seed: int, size: int = 3, *, learners: int = 0, spare: int = 0, **config: Any) -> None:
        self.random = Random(seed)
        self.checker = Checker()
        self.network: list[Message] = []
        self.cut: set[ReplicaId] = set()
        self.proposed = 0
        voters = range(1, size + 1)
        membership = conf(*voters, learners=range(size + 1, size + learners + 1))
        # The first membership is no entry of the log, so the log begins behind a snapshot that holds it: who joins with
        # an empty log cannot do without a snapshot, and learns the membership from that.
        start = Snapshot(Index(1), Term(1), membership, b"start")
        self.replicas: dict[ReplicaId, Replica] = {}
        for id in ids(*range(1, size + learners + spare + 1)):
            storage = MemoryStorage()
            if id <= size + learners:
                storage = MemoryStorage.restore(HardState(Term(1), commit=start.index), start)
            self.replicas[id] = Replica(id, storage, seed=seed, **config)

    # One step of chaos.

    def run(self, steps: int) -> None:
        deeds: list[tuple[Callable[[Replica], None], int]] = [
            (self.tick, 30),
            (self.deliver, 120),
            (self.propose, 12),
            (self.lose, 4),
            (self.repeat, 4),
            (self.save, 60),
            (self.apply, 40),
            (self.crash, 1),
            (self.isolate, 1),
            (self.heal, 2),
            (self.compact, 2),
            (self.read, 4),
            (self.change_membership, 2),
            (self.transfer, 1),
            (self.campaign, 1),
            (self.report, 2),
        ]
        chosen = self.random.choices([deed for deed, _ in deeds], [weight for _, weight in deeds], k=steps)
        everybody = list(self.replicas.values())
        for deed in chosen:
            one = self.random.choice(everybody)
            deed(one)
            self.work(one)

    def work(self, one: Replica) -> None:
        """Carry out what `one` has to do, now or, every other time, later."""
        if self.random.random() < 0.8:
            self.send(one, one.work())
        self._renew_snapshot(one)
        self.checker.check(one)

    def send(self, one: Replica, messages: list[Message]) -> None:
        for message in messages:
            self.checker.check_sent(one, message)
            self.network.append(message)

    def _renew_snapshot(self, one: Replica) -> None:
        """Do what a driver does when the newest snapshot does not know the replica that needs it."""
        if any(isinstance(event, SnapshotOutdated) for event in one.events):
            one.snapshot_and_compact(Index(0))

    def tick(self, one: Replica) -> None:
        one.tick()

    def deliver(self, _: Replica) -> None:
        """Deliver any message: the network keeps no order."""
        if self.network:
            position = self.random.randrange(min(len(self.network), 20))
            self._hand_over(self.network.pop(position))

    def _hand_over(self, message: Message) -> None:
        if message.to in self.cut or message.from_ in self.cut or message.to not in self.replicas:
            self._lost(message)
            return
        receiver = self.replicas[message.to]
        receiver.step(message)
        if message.type is MessageType.SNAPSHOT:
            self.replicas[message.from_].raw.report_snapshot(message.to, True)
        self.checker.check(receiver)

    def _lost(self, message: Message) -> None:
        sender = self.replicas[message.from_]
        if message.type is MessageType.SNAPSHOT:
            sender.raw.report_snapshot(message.to, False)
        elif self.random.random() < 0.3:
            sender.raw.report_unreachable(message.to)

    def lose(self, _: Replica) -> None:
        if self.network:
            self._lost(self.network.pop(self.random.randrange(len(self.network))))

    def repeat(self, _: Replica) -> None:
        if self.network:
            self.network.append(self.random.choice(self.network))

    def propose(self, one: Replica) -> None:
        self.proposed += 1
        try:
            one.raw.propose(b"p%d" % self.proposed)
        except ProposalDroppedError:
            return

    def save(self, one: Replica) -> None:
        one.save()

    def apply(self, one: Replica) -> None:
        one.apply()
        if self.random.random() < 0.5:
            one.machine.flush()

    def crash(self, one: Replica) -> None:
        one.crash()
        self.checker.restarted(one)

    def isolate(self, one: Replica) -> None:
        if len(self.cut) < len(self.replicas) // 2:
            self.cut.add(one.id)

    def heal(self, _: Replica) -> None:
        self.cut.clear()

    def compact(self, one: Replica) -> None:
        one.snapshot_and_compact(Index(max(0, one.machine.applied - self.random.randrange(10))))

    def read(self, one: Replica) -> None:
        context = b"r%d" % len(self.checker.reads)
        self.checker.reads[context] = self.checker.last_committed
        one.raw.read_index(context)

    def change_membership(self, one: Replica) -> None:
        # Not the leader itself: it would lead on until somebody stops it, and might be stopped before it told the
        # others.
        others = sorted(self.replicas.keys() - {one.raw.leader})
        if not others:
            return
        kinds = [ChangeType.ADD_VOTER, ChangeType.ADD_LEARNER, ChangeType.REMOVE]
        targets = self.random.sample(others, min(len(others), self.random.choice([1, 1, 2])))
        changes = tuple(SingleChange(self.random.choice(kinds), target) for target in targets)
        change = ConfChangeV2(changes, self.random.choice(list(Transition)))
        if one.status.membership.voters_outgoing and self.random.random() < 0.8:
            change = ConfChangeV2()
        try:
            one.raw.propose_conf_change(change)
        except ProposalDroppedError:
            return

    def transfer(self, one: Replica) -> None:
        one.raw.transfer_leader(self.random.choice(sorted(self.replicas)))

    def campaign(self, one: Replica) -> None:
        one.raw.campaign()

    def report(self, one: Replica) -> None:
        one.raw.report_unreachable(self.random.choice(sorted(self.replicas)))

    # The calm after it.

    def settle(self) -> None:
        """Deliver everything in order until nothing is left to do."""
        for _ in range(1_000):
            for one in self.replicas.values():
                self.send(one, one.settle())
                self._renew_snapshot(one)
                one.machine.flush()
                self.checker.check(one)
            if not self.network:
                return
            waiting, self.network = self.network, []
            for message in waiting:
                self._hand_over(message)
        raise AssertionError("the cluster never settles")

    def _retire_removed_leaders(self) -> None:
        """Stop leaders that are no members any more, as an operator does once the others have heard of it."""
        for one in self.leaders():
            if one.id not in one.raft.tracker.membership.members:
                one.crash()
                self.checker.restarted(one)

    def elect(self, timeouts: int = 30) -> Replica:
        """Let time pass for all alike until a leader stands that everybody follows. G9: it takes a bounded time."""
        self.cut.clear()
        for _ in range(timeouts * 10):
            self.settle()
            self._retire_removed_leaders()
            for leader in self.leaders():
                members = leader.raft.tracker.membership.members
                if all(self.replicas[member].raw.leader == leader.id for member in members):
                    return leader
            for one in self.replicas.values():
                one.tick()
        raise AssertionError(f"G9: no leader within {timeouts} election timeouts")

    def leaders(self) -> list[Replica]:
        led = [one for one in self.replicas.values() if one.raw.is_leader]
        newest = max((one.raw.term for one in led), default=Term(0))
        return [one for one in led if one.raw.term == newest]

    def check_liveness(self) -> None:
        """G9: with faults over, proposals are committed and applied by everybody in the membership."""
        name = self._propose_until_taken()
        for _ in range(100):
            self._pass_time()
            leaders = self.leaders()
            members = leaders[0].raft.tracker.membership.members if leaders else frozenset()
            if members and all(self.replicas[member].machine.applied >= name.index for member in members):
                return
        raise AssertionError("G9: a proposal is not applied everywhere")

    def _propose_until_taken(self) -> EntryId:
        for _ in range(100):
            try:
                if (name := self.elect().raw.propose(b"alive")) is not None:
                    return name
            except ProposalDroppedError:
                self._pass_time()  # a transfer ends, a backlog is worked off
        raise AssertionError("G9: no proposal is taken")

    def _pass_time(self) -> None:
        for one in self.replicas.values():
            one.tick()
        self.settle()
