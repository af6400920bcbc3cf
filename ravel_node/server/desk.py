"""The directory as its leader reads and changes it: what the Admin service and the mover of slots both go through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravel_node.admin.answers import read_answer
from ravel_node.admin.codec import encode
from ravel_node.admin.commands import Command, CommandFormError, RegisterServer, SetCluster
from ravel_node.admin.decisions import decide
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.model import Directory
from ravel_node.admin.ports import DirectoryAwayError
from ravel_node.machine import envelope
from ravel_node.raft.types import Index
from ravel_node.replica.errors import ReplicaError
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError

GROWS = (RegisterServer, SetCluster)
"""Commands that make the list longer: refused above the quota, as puts are. All others must go on."""


class DirectoryDesk:
    """One directory, behind the replica of one admin server."""

    def __init__(self, host: Host, machine: DirectoryMachine) -> None:
        self._host = host
        self._machine = machine

    @property
    def directory(self) -> Directory:
        """As applied here, however late that is."""
        return self._machine.directory

    async def read(self) -> tuple[Replica, Directory]:
        """The directory as it is now, valid until the next await. Raises NotLeaderError and what Replica.read_barrier raises."""
        replica = self._host.replica
        if not replica.barrier_free(ReadMode.LINEARIZABLE):
            await replica.read_barrier(ReadMode.LINEARIZABLE)
        return replica, self._machine.directory

    async def ask(self, command: Command) -> tuple[Replica, Mapping[str, Any]]:
        """The answer of the directory to a command. It is in the log if it changes something, and only then.

        Raises RefusedError, InputError, and what Replica.propose raises.
        """
        try:
            body = encode(command)
        except CommandFormError as error:
            raise InputError(str(error), field=command.kind) from None
        replica, directory = await self.read()
        decision = decide(directory, command, Index(0))  # the index only makes ids of moves
        if decision.directory is directory:
            return replica, decision.answer
        group = envelope.group((envelope.directory(body),))
        (outcome,) = await replica.propose(group, 1, grows=isinstance(command, GROWS))
        return replica, read_answer(outcome)


class DirectoryForMover:
    """Implements admin.ports.DirectoryPort."""

    def __init__(self, desk: DirectoryDesk) -> None:
        self._desk = desk

    def view(self) -> Directory:
        return self._desk.directory

    async def propose(self, command: Command) -> Mapping[str, Any]:
        try:
            _, answer = await self._desk.ask(command)
        except ReplicaError as error:
            raise DirectoryAwayError(str(error)) from None
        return answer
