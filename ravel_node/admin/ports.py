"""What the mover reaches the world by: the clusters, each by its number, and the directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from ravel_node.admin.commands import Command
from ravel_node.admin.model import ClusterNumber, Directory
from ravelpb.v1.slots_pb2 import (
    ChangeSlotsRequest,
    ChangeSlotsResponse,
    OwnershipResponse,
    ReadSlotsRequest,
    ReadSlotsResponse,
)


class ClusterAwayError(Exception):
    """A cluster did not answer, or not for sure: the step may have been done. The message names the cluster and says why."""


class StepRefusedError(Exception):
    """A cluster refused a step of a move; nothing was done. The message is its sentence."""


class DirectoryAwayError(Exception):
    """The directory did not answer for sure: this server leads the admin group no longer, or the group has lost its quorum."""


class ClusterPort(Protocol):
    """The service Slots of every cluster, at its leader (protos/ravelpb/v1/slots.proto)."""

    def as_of(self, directory: Directory) -> ClusterPort:
        """Return the port to the clusters that this directory has. One that was replaced since (adoption) counts as away.

        What is decided from a directory, be it an old one, reaches the clusters of that very directory or nobody.
        """
        ...

    async def ownership(self, cluster: ClusterNumber) -> OwnershipResponse:
        """As of some moment after the call began. Raises ClusterAwayError."""
        ...

    async def change(self, cluster: ClusterNumber, request: ChangeSlotsRequest) -> ChangeSlotsResponse:
        """One step. Raises StepRefusedError, ClusterAwayError.

        A chunk whose outcome is unknown is not sent again here: the answer to the second attempt would not say whether the first
        one was taken.
        """
        ...

    def read(self, cluster: ClusterNumber, request: ReadSlotsRequest) -> AsyncGenerator[ReadSlotsResponse, None]:
        """The pages of a stream. Raises StepRefusedError, ClusterAwayError while it is read."""
        ...


class DirectoryPort(Protocol):
    """The directory, where this server leads the admin group."""

    def view(self) -> Directory:
        """What was applied here: at least what `propose` has been answered."""
        ...

    async def propose(self, command: Command) -> Mapping[str, Any]:
        """Put a command into the log; its answer once it is applied here.

        Raises RefusedError (of admin.answers), DirectoryAwayError.
        """
        ...
