"""Scenarios that a reader can follow: scripts/*.txt, run and compared word for word.

A script is a list of commands, each with `----` and what it prints. `pytest tests/raft --rewrite` writes what the
commands print now into the files; the difference is reviewed like code.

    add-replicas 1 2 3 voters=(1 2 3)    start replicas whose log begins behind a snapshot at index 1
    campaign 1 · propose 1 TEXT · read 1 NAME · transfer 1 2 · tick 1 COUNT · compact 1 INDEX · crash 1
    change 1 voter=4 learner=5 remove=2 [explicit]    propose a membership change; nothing leaves a joint one
    cut 3 · heal                         drop all messages from and to a replica, until healed
    settle                               carry out everything and deliver everything, until nothing is left
    state · log 1                        roles, terms and marks; the entries of a log
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ravel_node.raft import (
    ChangeType,
    ConfChangeV2,
    Entry,
    EntryType,
    HardState,
    Index,
    Membership,
    MembershipChanged,
    MemoryStorage,
    Message,
    MessageType,
    ProposalDroppedError,
    RaftEvent,
    ReplicaId,
    SingleChange,
    Snapshot,
    Term,
    Transition,
    decode_conf_change,
)
from tests.raft.support import Replica, ids

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
KINDS = {"voter": ChangeType.ADD_VOTER, "learner": ChangeType.ADD_LEARNER, "remove": ChangeType.REMOVE}


class Scene:
    """The replicas of one script and the messages between them."""

    def __init__(self) -> None:
        self.replicas: dict[ReplicaId, Replica] = {}
        self.cut: set[ReplicaId] = set()

    def run(self, command: str) -> str:
        name, *arguments = command.split(maxsplit=1)
        method: Callable[[str], Iterator[str]] = getattr(self, "do_" + name.replace("-", "_"))
        try:
            lines = list(method(arguments[0] if arguments else ""))
        except ProposalDroppedError:
            lines = ["dropped"]
        return "\n".join(lines) or "ok"

    def _of(self, number: str) -> Replica:
        return self.replicas[ReplicaId(int(number))]

    def do_add_replicas(self, rest: str) -> Iterator[str]:
        numbers, *settings = re.split(r"\s+(?=\w+=)", rest)
        pairs = [one.split("=") for one in settings]
        members = {key: ids(*map(int, value.strip("()").split())) for key, value in pairs}
        membership = Membership(frozenset(members.get("voters", ())), learners=frozenset(members.get("learners", ())))
        start = Snapshot(Index(1), Term(1), membership.conf_state(), b"start")
        for id in ids(*map(int, numbers.split())):
            known = id in membership.members
            storage = MemoryStorage.restore(HardState(Term(1), commit=Index(1)), start) if known else MemoryStorage()
            self.replicas[id] = Replica(id, storage, pre_vote=True, check_quorum=True, async_storage_writes=True)
        yield from ()

    def do_campaign(self, rest: str) -> Iterator[str]:
        self._of(rest).raw.campaign()
        yield from ()

    def do_propose(self, rest: str) -> Iterator[str]:
        number, text = rest.split()
        name = self._of(number).raw.propose(text.encode())
        yield f"entry {name.term}/{name.index}" if name else "forwarded"

    def do_read(self, rest: str) -> Iterator[str]:
        number, text = rest.split()
        self._of(number).raw.read_index(text.encode())
        yield from ()

    def do_transfer(self, rest: str) -> Iterator[str]:
        number, target = rest.split()
        self._of(number).raw.transfer_leader(ReplicaId(int(target)))
        yield from ()

    def do_tick(self, rest: str) -> Iterator[str]:
        number, count = rest.split()
        self._of(number).tick(int(count))
        yield from ()

    def do_compact(self, rest: str) -> Iterator[str]:
        number, index = rest.split()
        self._of(number).snapshot_and_compact(Index(int(index)))
        yield from ()

    def do_crash(self, rest: str) -> Iterator[str]:
        self._of(rest).crash()
        yield from ()

    def do_cut(self, rest: str) -> Iterator[str]:
        self.cut.add(ReplicaId(int(rest)))
        yield from ()

    def do_heal(self, rest: str) -> Iterator[str]:
        self.cut.clear()
        yield from ()

    def do_change(self, rest: str) -> Iterator[str]:
        number, *words = rest.split()
        pairs = [word.split("=") for word in words if "=" in word]
        changes = tuple(SingleChange(KINDS[kind], ReplicaId(int(target))) for kind, target in pairs)
        transition = Transition.JOINT_EXPLICIT if "explicit" in words else Transition.AUTO
        name = self._of(number).raw.propose_conf_change(ConfChangeV2(changes, transition))
        yield f"entry {name.term}/{name.index}" if name else "forwarded"

    def do_settle(self, rest: str) -> Iterator[str]:
        for _ in range(200):
            sent: list[Message] = []
            for one in self.replicas.values():
                sent += one.settle()
                yield from self._told(one)
            if not sent:
                return
            for message in sent:
                yield from self._deliver(message)
        yield "never settles"

    def _told(self, one: Replica) -> Iterator[str]:
        events = [event for event in one.events if not isinstance(event, MembershipChanged)]
        yield from (f"{one.id} event {describe(event)}" for event in events)
        for entry in one.applied:
            yield f"{one.id} applied {show(entry)}"
            if entry.type is not EntryType.NORMAL:
                yield f"{one.id} membership {Membership.from_conf_state(one.machine.conf_state)}"
        yield from (f"{one.id} may read {read.context.decode()} at {read.index}" for read in one.reads)
        for told in (one.events, one.applied, one.reads):
            told.clear()

    def _deliver(self, message: Message) -> Iterator[str]:
        lost = bool({message.to, message.from_} & self.cut) or message.to not in self.replicas
        if not lost or message.type is not MessageType.HEARTBEAT:
            yield f"  {describe_message(message)}{' (lost)' if lost else ''}"
        if not lost:
            self.replicas[message.to].step(message)
        if message.type is MessageType.SNAPSHOT:
            self.replicas[message.from_].raw.report_snapshot(message.to, not lost)

    def do_state(self, rest: str) -> Iterator[str]:
        for id, one in self.replicas.items():
            status = one.status
            marks = f"commit={status.commit} applied={status.applied} last={status.last_index}"
            yield f"{id} {status.role.name.lower()} term={status.term} leader={status.leader} {marks}"

    def do_log(self, rest: str) -> Iterator[str]:
        yield from map(show, self._of(rest).log)


def show(entry: Entry) -> str:
    if entry.type is EntryType.NORMAL:
        return f"{entry.term}/{entry.index} {entry.data.decode() or '(empty)'}"
    change = decode_conf_change(entry)
    assert isinstance(change, ConfChangeV2)
    changes = " ".join(f"{one.type.name.lower()} {one.replica_id}" for one in change.changes)
    return f"{entry.term}/{entry.index} change: {changes or 'leave'}"


def describe(event: RaftEvent) -> str:
    fields = [(name, getattr(event, name)) for name in event.__slots__]
    return " ".join([type(event).__name__, *(f"{name}={getattr(value, 'name', value)}" for name, value in fields)])


def describe_message(message: Message) -> str:
    parts = [f"{message.from_} -> {message.to} {message.type.name} term={message.term}"]
    if message.type in (MessageType.APPEND, MessageType.VOTE, MessageType.PRE_VOTE):
        parts.append(f"after={message.log_term}/{message.index}")
    elif message.index:
        parts.append(f"index={message.index}")
    if message.entries:
        parts.append(f"entries={len(message.entries)}")
    if message.commit:
        parts.append(f"commit={message.commit}")
    if message.snapshot is not None:
        parts.append(f"snapshot={message.snapshot.term}/{message.snapshot.index}")
    if message.reject:
        parts.append(f"refused, hint={message.reject_hint}")
    return " ".join(parts)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command with the comment lines before it, and what it is expected to print; a blank line ends it."""
    for block in re.split(r"\n\n+", text.strip()):
        command, _, expected = block.partition("\n----")
        yield command, expected.strip("\n")


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    scene = Scene()
    told = [(head, wanted, scene.run(head.splitlines()[-1])) for head, wanted in commands(path.read_text())]
    if request.config.getoption("--rewrite"):
        path.write_text("\n\n".join(f"{head}\n----\n{printed}" for head, _, printed in told) + "\n")
        return
    for head, wanted, printed in told:
        assert printed == wanted, head


def test_there_are_scenarios() -> None:
    assert SCRIPTS
