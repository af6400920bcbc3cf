"""What the admin's tests share: an admin group of one machine, and short ways to say what is proposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ravel_node.admin.answers import RefusedError, read_answer
from ravel_node.admin.codec import encode
from ravel_node.admin.commands import (
    Command,
    DecideMove,
    FinishMove,
    PlanMoves,
    PlannedMove,
    RegisterServer,
    ReportMembership,
    Seated,
    SetCluster,
)
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.model import ClusterEntry, ClusterNumber, Directory, ServerEntry
from ravel_node.machine import envelope
from ravel_node.machine.base import Database, Outcome
from ravel_node.machine.members import DIRECTORY, bootstrap_state
from ravel_node.raft.types import EntryId, Index, Term
from ravelpb.errors import Reason
from tests.machine.helpers import member, voters
from tests.machine.memory_txn import MemoryState


def hex_id(number: int) -> str:
    return f"{number:032x}"


def registering(number: int, **fields: Any) -> RegisterServer:
    """Server `number`; a cluster that it founds gets the id 1,000 + that, unless said otherwise."""
    values: dict[str, Any] = {
        "server_id": hex_id(number),
        "name": f"n{number}",
        "version": "0.1.0",
        "format": 3,
        "listen": f"10.0.{number // 250}.{number % 250}:7400",
        "peer": f"10.0.{number // 250}.{number % 250}:7401",
        "fresh_id": hex_id(1_000 + number),
    }
    return RegisterServer(**{**values, **fields})


def report(
    cluster: ClusterEntry, *members: int, term: int = 1, index: int = 1, learners: Sequence[int] = (), leader: int = 0
) -> ReportMembership:
    """Servers by number; replica ids are the same numbers."""
    seats = [Seated(hex_id(number), number) for number in members] + [Seated(hex_id(number), number, True) for number in learners]
    return ReportMembership(cluster.cluster_id, hex_id(leader or members[0]), term, index, tuple(seats))


class Admin:
    """One machine and its state: an admin group whose log begins after index 1."""

    def __init__(self) -> None:
        self.state = MemoryState()
        bootstrap_state(
            self.state, cluster_name="admin", member=member(1), conf_state=voters(1), config_index=Index(1), machine=DIRECTORY
        )
        self.index = 1
        self.reopen()

    def reopen(self) -> None:
        """As after a restart."""
        self.machine = DirectoryMachine()
        self.machine.open(self.state)

    @property
    def directory(self) -> Directory:
        return self.machine.directory

    def entry(self, *bodies: bytes) -> list[Outcome]:
        """One entry with these directory commands."""
        return self.apply(*(envelope.group([envelope.directory(body)]) for body in bodies))

    def apply(self, *groups: bytes) -> list[Outcome]:
        """One entry with these groups."""
        self.index += 1
        return list(self.machine.apply(EntryId(Term(1), Index(self.index)), envelope.payload(groups), self.state))

    def run(self, command: Command) -> dict[str, Any]:
        """The answer. Raises RefusedError."""
        return read_answer(self.entry(encode(command))[0])

    def refuses(self, command: Command, reason: Reason, *words: str) -> None:
        """It is refused for this reason, in a sentence with these words, and changes nothing."""
        before, view = self.rows(), self.directory
        with pytest.raises(RefusedError) as told:
            self.run(command)
        assert told.value.reason is reason, told.value.message
        assert all(word in told.value.message for word in words), told.value.message
        assert self.rows() == before
        assert self.directory is view

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.state.databases[Database.DIRECTORY])

    def cluster(self, name: str) -> ClusterEntry:
        found = self.directory.cluster_named(name)
        assert found is not None, name
        return found

    def server(self, number: int) -> ServerEntry:
        return self.directory.servers[hex_id(number)]

    def found(self, name: str, *numbers: int) -> ClusterEntry:
        """A cluster with these servers, all of them voters by the report of the first."""
        for number in numbers:
            self.run(registering(number, new_cluster=name))
        self.run(report(self.cluster(name), *numbers))
        return self.cluster(name)

    def plan(self, source: ClusterEntry, destination: ClusterEntry, *slots: int) -> int:
        """The id of a planned move."""
        move = PlannedMove(slots, source.number, destination.number)
        (move_id,) = self.run(PlanMoves(self.directory.slot_map.version, (move,)))["moves"]
        assert isinstance(move_id, int)
        return move_id

    def abort(self, move_id: int) -> None:
        self.run(DecideMove(move_id, False))
        self.run(FinishMove(move_id))

    def make(self, name: str, fresh: int, **fields: Any) -> ClusterNumber:
        """What SetCluster answers."""
        return ClusterNumber(self.run(SetCluster(name, hex_id(fresh), **fields))["cluster"])
