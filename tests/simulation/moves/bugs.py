"""Bugs for the move of slots, each of which leaves one rule out. `make sim-bugs` sees that every one of them is found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from ravel_node.admin import movement
from ravel_node.admin.copying import ChunkLostError, Copier, Pass, _Chunk
from ravel_node.admin.executor import _Carrier
from ravel_node.admin.model import ClusterNumber, Directory, Move, Phase, SlotMap
from ravel_node.machine import kv as kv_module
from ravel_node.machine import ownership as ownership_module
from ravel_node.machine.base import Outcome, Status
from ravel_node.machine.ownership import Ownership, Taken
from ravel_node.machine.slots import SlotsCommand, Step
from ravelpb.v1 import slots_pb2 as pb
from tests.simulation.bugs import Bug, Put
from tests.simulation.moves.clients import Client
from tests.simulation.moves.cluster import SimCluster


def _unfreeze_after_the_switch(put: Put) -> None:
    """A mover that is not sure of the outcome lets the source go on."""
    real = _Carrier._hand_over

    async def hand_over(self: _Carrier, move: Move) -> None:
        await self._step(move.source, pb.UNFREEZE)
        await real(self, move)

    put(_Carrier, "_hand_over", hand_over)


def _activate_before_release(put: Put) -> None:
    real = _Carrier._hand_over

    async def hand_over(self: _Carrier, move: Move) -> None:
        await self._step(move.destination, pb.ACTIVATE, map_version=self._directory.view().slot_map.version)
        await real(self, move)

    put(_Carrier, "_hand_over", hand_over)


def _purge_before_commit(put: Put) -> None:
    """Everything is at the destination, so why keep it here?"""
    real = _Carrier._copy_all

    async def copy_all(self: _Carrier, move: Move, bound: asyncio.Timeout) -> None:
        await real(self, move, bound)
        await self._step(move.source, pb.RELEASE, map_version=self._directory.view().slot_map.version)
        while (await self._step(move.source, pb.PURGE)).more:
            pass

    put(_Carrier, "_copy_all", copy_all)


def _last_pass_left_out(put: Put) -> None:
    real = Copier.follow

    async def follow(self: Copier, *, settle: bool) -> Pass:
        return await real(self, settle=True) if settle else Pass()

    put(Copier, "follow", follow)


def _comparison_left_out(put: Put) -> None:
    """A mover that comes second takes it that the first one has copied everything."""
    real = Copier.compare

    async def compare(self: Copier) -> Pass:
        return await real(self) if self._next_chunk == 1 else Pass()

    put(Copier, "compare", compare)


def _chunk_renumbered(put: Put) -> None:
    """A chunk that was lost is sent again under the right number, though its contents were read before."""
    real = Copier._deliver

    async def deliver(self: Copier, chunk: _Chunk, number: int, before: asyncio.Task[None] | None) -> None:
        while True:
            try:
                return await real(self, chunk, number, before)
            except ChunkLostError:
                await self.begin(chunk.revision)
                number, before, self._next_chunk = self._next_chunk, None, self._next_chunk + 1

    put(Copier, "_deliver", deliver)


def _import_skips_nothing(put: Put) -> None:
    """An import goes on with the next number, which a chunk that an earlier mover has in flight may have, too."""
    put(ownership_module, "CHUNKS_IN_FLIGHT_MAX", 0)


def _settled_when_sent(put: Put) -> None:
    """Notes go when the chunks with their keys were sent, not when they were taken."""

    async def follow(self: Copier, *, settle: bool) -> Pass:
        request = pb.ReadSlotsRequest(noted_for_move=self._move.move_id, linearizable=True)
        first_revision = 0
        async with self._sending() as found, aclosing(self.clusters.read(self._move.source, request)) as pages:
            async for page in pages:
                first_revision = first_revision or page.revision
                for moved in page.keys:
                    await self._add(moved, page.revision, found)
            if settle and found.keys:
                settled = pb.ChangeSlotsRequest(step=pb.SETTLE, move=self._move.move_id, revision=first_revision)
                await self.clusters.change(self._move.source, settled)
        return found

    put(Copier, "follow", follow)


def _chunk_taken_twice(put: Put) -> None:
    """Chunks are taken whatever their number: also one that comes late, with older values."""
    real = ownership_module._import_chunk

    def import_chunk(own: Ownership, command: SlotsCommand, revision: int, txn: Any) -> Taken:
        move = own.moves.get(command.move)
        return real(own, command if move is None else command._replace(chunk=move.next_chunk), revision, txn)

    put(ownership_module, "_STEPS", {**ownership_module._STEPS, Step.IMPORT_CHUNK: import_chunk})


def _nothing_noted(put: Put) -> None:
    put(Ownership, "note", lambda self, keys, revision, txn: None)


def _settled_too_far(put: Put) -> None:
    """Notes go up to the newest write, not up to what was read."""
    real = SimCluster.change

    async def change(self: SimCluster, request: pb.ChangeSlotsRequest) -> pb.ChangeSlotsResponse:
        if request.step == pb.SETTLE:
            request.revision = self.machine.revision
        return await real(self, request)

    put(SimCluster, "change", change)


def _revisions_begin_anew(put: Put) -> None:
    """The destination counts on from its own revision."""
    real = ownership_module.take_step
    put(kv_module, "take_step", lambda *arguments: real(*arguments)._replace(revision=0))


def _counts_on_from_what_was_copied(put: Put) -> None:
    """The destination's revision is at least that of every key that came, and no more is asked of it."""
    real = ownership_module._activate
    put(
        ownership_module,
        "_STEPS",
        {**ownership_module._STEPS, Step.ACTIVATE: lambda *arguments: real(*arguments)._replace(revision=0)},
    )


def _move_begun_again(put: Put) -> None:
    """A cluster forgets which moves have ended, so that what is late begins one anew."""
    put(ownership_module, "_check_not_over", lambda own, command: None)


def _frozen_by_a_dead_mover(put: Put) -> None:
    """A FREEZE is a FREEZE, whoever asked for it and however late it comes."""
    put(ownership_module, "_check_mover", lambda move, command: None)


def _decided_twice(put: Put) -> None:
    def decided(directory: Directory, move_id: int, *, commit: bool) -> Directory:
        move = movement._move(directory, move_id)
        directory = movement._with(directory, replace(move, phase=Phase.COMMITTED if commit else Phase.ABORTED))
        owners: list[ClusterNumber] = list(directory.slot_map.owners)
        for slot in move.slots:
            owners[slot] = move.destination if commit else move.source
        return replace(directory, slot_map=SlotMap(directory.slot_map.version + 1, tuple(owners)))

    put(movement, "decided", decided)


def _unknown_write_sent_elsewhere(put: Put) -> None:
    """A client that got no answer asks for the map, and follows it."""
    real = Client.attempt

    async def attempt(self: Client, number: int, command: bytes, deadline: float) -> tuple[Outcome | None, bool]:
        outcome, uncertain = await real(self, number, command, min(deadline, self._now() + 0.3))
        return (outcome or Outcome(Status.WRONG_CLUSTER)), uncertain

    put(Client, "attempt", attempt)


MOVE_BUGS: Final[Sequence[Bug]] = (
    Bug("unfreeze-after-the-switch", "only an abort unfreezes", _unfreeze_after_the_switch, 20),
    Bug("activate-before-release", "the source lets go before the destination takes over", _activate_before_release, 20),
    Bug("purge-before-commit", "keys are deleted once the move is committed", _purge_before_commit, 60),
    Bug("last-pass-left-out", "what was noted last is copied while writes are refused", _last_pass_left_out, 60),
    Bug("comparison-left-out", "a mover believes only a pass of its own", _comparison_left_out, 60),
    Bug("chunk-renumbered", "a chunk that was lost is read again", _chunk_renumbered, 200),
    Bug("import-skips-nothing", "after an import no chunk of an earlier mover is taken", _import_skips_nothing, 400),
    Bug("settled-when-sent", "a note goes when the chunk with its key was taken", _settled_when_sent, 200),
    Bug("chunk-taken-twice", "a chunk is taken under its own number only", _chunk_taken_twice, 300),
    Bug("nothing-noted", "what is written while keys are copied is noted", _nothing_noted, 20),
    Bug("settled-too-far", "a note goes when its write was copied", _settled_too_far, 60),
    Bug("revisions-begin-anew", "the destination's revision is not below the source's", _revisions_begin_anew, 60),
    Bug("counts-on-from-what-was-copied", "nor below what the source had come to", _counts_on_from_what_was_copied, 60),
    Bug("move-begun-again", "a move that has ended does not begin again", _move_begun_again, 100),
    Bug("frozen-by-a-dead-mover", "only the newest mover freezes", _frozen_by_a_dead_mover, 60),
    Bug("decided-twice", "a move is decided once", _decided_twice, 60),
    Bug("unknown-write-sent-elsewhere", "an unknown write is retried where it was sent first", _unknown_write_sent_elsewhere, 60),
)
