"""The driver's inbox: everything that the core must hear of, in bounded lanes, taken a turn at a time.

What arrives while the driver works is the next turn's batch. Ticks do not queue: one that was missed is dropped, so that a
process that was stopped for a while does not see its election timeout pass in an instant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ravel_node.machine.base import Outcome
from ravel_node.raft import Message, RawNode
from ravel_node.replica.errors import ReplicaBusyError


@dataclass(slots=True)
class Proposal:
    """One encoded group of commands and the future of its outcomes."""

    group: bytes
    count: int
    future: asyncio.Future[Sequence[Outcome]]


@dataclass(slots=True)
class Turn:
    """What one turn of the driver has to feed."""

    tick: bool = False
    messages: list[Message] = field(default_factory=list)
    completed: list[Message] = field(default_factory=list)  # answers of the log writer: what was saved may now be said
    calls: list[Callable[[RawNode], None]] = field(default_factory=list)


class Inbox:
    """Filled from anywhere on the loop, emptied by the driver's task only."""

    def __init__(self, *, proposals_max: int, proposals_bytes_max: int, messages_max: int) -> None:
        self._proposals_max = proposals_max
        self._proposals_bytes_max = proposals_bytes_max
        self._messages_max = messages_max
        self._turn = Turn()
        self._waiter: asyncio.Future[None] | None = None
        self._awake = False
        self.proposals: list[Proposal] = []  # stay here until the driver packs them
        self.proposals_count = 0  # commands in `proposals`
        self.proposals_bytes = 0
        self.messages_dropped = 0

    def tick(self) -> None:
        self._turn.tick = True
        self.wake()

    def step(self, messages: Sequence[Message]) -> None:
        """Messages of peers. What does not fit is dropped: Raft sends it again."""
        room = self._messages_max - len(self._turn.messages)
        if len(messages) > room:
            self.messages_dropped += len(messages) - max(room, 0)
            messages = messages[: max(room, 0)]
        self._turn.messages.extend(messages)
        self.wake()

    def complete(self, responses: Sequence[Message]) -> None:
        self._turn.completed.extend(responses)
        self.wake()

    def call(self, function: Callable[[RawNode], None]) -> None:
        """Have the driver call `function` with its RawNode; it must not block or raise."""
        self._turn.calls.append(function)
        self.wake()

    def propose(self, proposal: Proposal) -> None:
        """Raises ReplicaBusyError when too much waits already."""
        if (
            self.proposals_count + proposal.count > self._proposals_max
            or self.proposals_bytes + len(proposal.group) > self._proposals_bytes_max
        ):
            raise ReplicaBusyError(
                f"{self.proposals_count} commands of {self.proposals_bytes} bytes wait to be appended already "
                f"(at most {self._proposals_max} and {self._proposals_bytes_max} bytes); nothing was done, try again shortly"
            )
        self.proposals.append(proposal)
        self.proposals_count += proposal.count
        self.proposals_bytes += len(proposal.group)
        self.wake()

    def take_proposals(self) -> list[Proposal]:
        taken, self.proposals = self.proposals, []
        self.proposals_count = self.proposals_bytes = 0
        return taken

    def wake(self) -> None:
        self._awake = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> Turn:
        """Everything that has arrived, once there is something."""
        if self._awake:
            await asyncio.sleep(0)  # a driver that woke itself lets the loop run all the same: ticks, messages, flushes
        else:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._awake = False
        turn, self._turn = self._turn, Turn()
        return turn
