"""The Slots service: which slots this cluster owns, and the steps by which they move. Only the leader answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from ravel_node.machine.limits import MOVED_BYTES_MAX, MOVED_KEYS_MAX, MOVES_MAX
from ravel_node.machine.ownership import MOVE_ID_END, Mark, Ownership, Side
from ravel_node.machine.slots import ALL_SLOTS, MovedKey, SlotsCommand, Step, bitmap, slots_of
from ravel_node.replica.errors import MoveRefusedError
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.slots import SlotPages, change_slots, held_slots
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravel_node.server.status import header_of
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import slots_pb2

_STEPS: Final = {int(step): step for step in Step}

NO_VERSION: Final = 0


class SlotsHandlers:
    """Handlers of `ravel.v1.Slots`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def ownership(self, request: slots_pb2.OwnershipRequest) -> slots_pb2.OwnershipResponse:
        """As of a read barrier: every step that was answered shows."""
        replica = self._host.replica
        own = replica.machine.ownership
        moves = [] if own is None else list(own.moves.values())
        keys = {move.move: await replica.count_keys(move.slots) for move in moves}
        await replica.read_barrier(ReadMode.LINEARIZABLE)
        own = replica.machine.ownership
        response = slots_pb2.OwnershipResponse(
            header=header_of(self._host, replica), managed=own is not None, owned=ALL_SLOTS, revision=replica.machine.revision
        )
        if own is not None:
            response.owned, response.map_version, response.last_move = own.owned, own.map_version, own.last_move
            response.changes = own.changes
            response.moves.extend(
                slots_pb2.SlotMove(
                    move=move.move,
                    side=slots_pb2.MoveSide.ValueType(move.side),
                    slots=move.slots,
                    next_chunk=move.next_chunk if move.side is Side.IMPORTING else 0,
                    mover=move.mover,
                    versions=map(own.came_by, move.slots) if move.side is Side.RELEASED else (),
                    keys=keys.get(move.move, 0),
                )
                for move in own.moves.values()
            )
        if request.detail:
            owned = slots_of(response.owned)
            response.versions.extend([NO_VERSION] * SLOT_COUNT if own is None else map(own.came_by, owned))
            response.held = bitmap(await held_slots(replica))
        return response

    async def change_slots(self, request: slots_pb2.ChangeSlotsRequest) -> slots_pb2.ChangeSlotsResponse:
        """Raises MoveRefusedError where the step does not fit, InputError where it never could."""
        replica = self._host.replica
        result = await change_slots(replica, _command(request), request.limit)
        return slots_pb2.ChangeSlotsResponse(
            header=header_of(self._host, replica),
            revision=result.revision,
            next_chunk=result.next_chunk,
            more=result.more,
            deleted=result.deleted,
            taken=result.taken,
        )

    async def read_slots(self, request: slots_pb2.ReadSlotsRequest) -> AsyncIterator[slots_pb2.ReadSlotsResponse]:
        """Yield pages, one at least; after the barrier each is at least as new as the one before.

        Raises MoveRefusedError for slots of which this cluster has no keys to show, or of which this replica's index is damaged.
        """
        _check_slots(request.slots)
        replica = self._host.replica
        if request.linearizable:
            await replica.read_barrier(ReadMode.LINEARIZABLE)
        replica.check_leader()
        pages = SlotPages(request.slots, noted_for=request.noted_for_move, keys_only=request.keys_only)
        more = True
        try:
            while more:
                await pages.prepare(replica)
                replica.check_leader()
                _check_readable(replica.machine.ownership, request)
                page = pages.next(replica.reader())
                more = page.more
                yield slots_pb2.ReadSlotsResponse(
                    keys=[slots_pb2.MovedKey(key=key, value=value, revision=revision) for key, value, revision in page.keys],
                    revision=page.revision,
                    more=more,
                )
        finally:
            await pages.close()


def _command(request: slots_pb2.ChangeSlotsRequest) -> SlotsCommand:
    """Raises InputError for what breaks a bound."""
    step = _STEPS.get(request.step)
    if step is None:
        raise InputError(f"step {request.step} is none that this server knows", field="step", value=request.step)
    for field in ("move", "map_version", "chunk", "mover", "expected_changes"):
        if (value := getattr(request, field)) >= MOVE_ID_END:
            raise InputError(f"{field} is {value}: it must be below {MOVE_ID_END}", field=field, value=value, limit=MOVE_ID_END)
    _check_slots(request.slots)
    ended = list(request.ended)
    if len(ended) > MOVES_MAX or ended != sorted(set(ended)) or (ended and ended[-1] >= MOVE_ID_END):
        raise InputError(f"ended must ascend, at most {MOVES_MAX} ids below {MOVE_ID_END}", field="ended", value=len(ended))
    keys = tuple(MovedKey(moved.key, moved.value, moved.revision) for moved in request.keys)
    if keys and step is not Step.IMPORT_CHUNK:
        raise InputError(f"a step {step.name} names no keys: this server looks for them", field="keys", value=len(keys))
    if len(keys) > MOVED_KEYS_MAX:
        raise InputError(
            f"a chunk of {len(keys)} keys, it may have {MOVED_KEYS_MAX}", field="keys", value=len(keys), limit=MOVED_KEYS_MAX
        )
    size = sum(len(key) + len(value) for key, value, _ in keys)
    if size > MOVED_BYTES_MAX and len(keys) > 1:
        raise InputError(
            f"a chunk of {size} bytes in {len(keys)} pairs, it may have {MOVED_BYTES_MAX} in more than one",
            field="keys",
            value=size,
            limit=MOVED_BYTES_MAX,
        )
    return SlotsCommand(
        step,
        request.move,
        tuple(request.slots),
        request.map_version,
        request.chunk,
        keys,
        request.revision,
        mover=request.mover,
        expected=request.expected_changes,
        ended=tuple(request.ended),
    )


def _check_slots(slots: Sequence[int]) -> None:
    if list(slots) != sorted(set(slots)) or (slots and slots[-1] >= SLOT_COUNT):
        raise InputError(f"slots must ascend and lie below {SLOT_COUNT}", field="slots", value=len(slots), limit=SLOT_COUNT)


def _check_readable(own: Ownership | None, request: slots_pb2.ReadSlotsRequest) -> None:
    """Raises MoveRefusedError for slots of which this cluster has no keys to show."""
    if request.noted_for_move and (own is None or request.noted_for_move not in own.moves):
        raise MoveRefusedError(f"move {request.noted_for_move} is not under way at this cluster: there are no notes of it")
    if own is None:
        return
    moving = {slot for move in own.moves.values() for slot in move.slots}
    for slot in request.slots:
        if own.marks[slot] == Mark.FOREIGN and slot not in moving:
            raise MoveRefusedError(f"slot {slot} is neither this cluster's nor on its way to it")
