"""Which slots this cluster owns, and the moves that take some to another cluster or bring some here. Replicated state.

A cluster without ownership records is *unmanaged*: it owns all slots, and nothing here costs it anything. OWN, or birth on
behalf of an admin, makes it managed for good. The protocol of a move, step by step, is told in slots.proto; this is the
end of it in one cluster. What it takes care of:

- *Every step can be repeated*, and one that does not fit is refused with a sentence and changes nothing: a step of a move
  that is over, a step out of order. So a mover that crashed, or one that is late and was replaced, does no harm.
- *A move is taken once.* Ids ascend; no id up to the last finished one begins again. UNFREEZE and DROP of a move that never came
  finish it too, so that what is still under way of it comes too late.
- *A chunk is taken once, and in order.* Only the next one is taken. The answer to any other, also to one that was taken before,
  says that its keys were not taken: two movers may give one number to different keys, and each must learn whether its own were
  taken.
- *The newest import counts.* Each IMPORT skips CHUNKS_IN_FLIGHT_MAX numbers, so that no chunk is taken that an earlier mover, or
  an earlier attempt of the same one, has in flight.
- *The newest mover freezes.* EXPORT tells which mover it is, and FREEZE of an earlier one is refused from then on: so no slot is
  frozen that no living mover knows of, and none longer than one mover allows.
- *Revisions of a key only grow.* Imported keys keep theirs, and the destination's counter is raised to what the source's had
  come to when it let go: above every revision that was told of a key, be it by a delete that found nothing.
- *Who watches a key misses nothing.* Each slot that ever moved has its tenure: after which revision it came, up to which one it
  stayed. What the source told up to there and what the destination tells from there on is all that ever happened to the key.
- *The log of a cluster is the truth about what the cluster owns.* For each slot it holds the version of the map by which the slot
  came. When clusters and the registry disagree, because something was restored, the newest version wins (admin.reconcile), and
  OWN writes the result here.

The records, numbers big-endian, versions u8 first:

    "o"                         version, map version u64, last move u64, the step u8 that ended it (0: none), 512 bytes of bitmap,
                                the map version u64 by which slots without a tenure came, how often u64 slots came or left
    "m" move u64                version, side u8, number u64 (source: the mover's; else the next chunk's), slots u16 ...
    "n" move u64 user key       u64 revision: a note that the key was written while the move copied its slot
    "t" slot u16                came u64, left u64, map version u64: its newest tenure here

A note is written with every change of a key in an exported slot, and deleted by SETTLE once the key was copied. Notes of a move
that is over are rubbish; whoever takes the next step sweeps them away, some at a time (replica.slots).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, NamedTuple

from ravel_node.machine.base import Database, Outcome, Reader, Status, Txn
from ravel_node.machine.envelope import CommandError
from ravel_node.machine.limits import MOVES_MAX
from ravel_node.machine.slots import (
    ALL_SLOTS,
    BITMAP_BYTES,
    NO_SLOTS,
    MovedKey,
    SlotsCommand,
    Step,
    bitmap,
    difference,
    slots_of,
    union,
)
from ravelpb.slots import SLOT_COUNT, slot_of

RECORD_VERSION: Final = 1

CHUNKS_IN_FLIGHT_MAX: Final = 64
"""Chunks that one mover may have in flight: it sends none before the one so many numbers earlier was taken."""

MOVE_ID_END: Final = 1 << 63
"""Ids of moves lie below."""

RECONCILE: Final = "let the admin group find out what each cluster owns (ravelctl admin reconcile)"

_OWNED_KEY: Final = b"o"
_OWNED: Final = struct.Struct(">BQQB")
_LATER: Final = struct.Struct(">QQ")
_MOVE: Final = struct.Struct(">BBQ")
_TENURE: Final = struct.Struct(">QQQ")
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")


class OwnershipVersionError(Exception):
    """A record of ownership that a later version wrote. The replica stops: it cannot know what it says."""

    def __init__(self, version: int) -> None:
        super().__init__(f"a record of slots of version {version}, where this build knows {RECORD_VERSION}: upgrade this server")


class StepError(CommandError):
    """A step that does not fit what the cluster knows of its move: refused by every replica alike, with this sentence."""


class Side(IntEnum):
    """Where a move stands at this cluster. Numbers as in slots.proto; they are in records."""

    EXPORTING = 1
    FROZEN = 2
    RELEASED = 3
    IMPORTING = 4
    DROPPING = 5


class Mark(IntEnum):
    """What holds for the keys of one slot."""

    FOREIGN = 0  # neither read nor written here
    OWNED = 1
    NOTED = 2  # owned, and written keys are noted
    FROZEN = 3  # owned, and not written


SOURCE: Final = (Side.EXPORTING, Side.FROZEN, Side.RELEASED)
_MARK_OF: Final = {Side.EXPORTING: Mark.NOTED, Side.FROZEN: Mark.FROZEN}
_SPREAD: Final = tuple(bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256))


@dataclass(frozen=True, slots=True)
class SlotMove:
    """A move under way at this cluster."""

    move: int
    side: Side
    slots: tuple[int, ...]  # ascending
    next_chunk: int = 1  # destination: the chunk that it takes next
    mover: int = 0  # source: the newest mover that has exported


class Tenure(NamedTuple):
    """Of which revisions this cluster knows what happened to the keys of a slot: came < revision, and <= left if it left."""

    came: int = 0  # the source's when it let go; 0: the slot was here from the beginning
    left: int = 0  # this cluster's when it let go; 0: it has not
    map_version: int = 0  # of the map by which the slot came


FROM_THE_BEGINNING: Final = Tenure()


@dataclass(frozen=True, slots=True)
class Ownership:
    """All of it at one log index. Replaced, never changed, when something changes."""

    owned: bytes  # a bitmap: frozen slots are owned, released ones are not
    map_version: int = 0  # of the newest map that changed what is owned
    last_move: int = 0  # the newest finished move: no id up to it begins again
    last_end: int = 0  # the step that finished it
    moves: Mapping[int, SlotMove] = field(default_factory=dict)  # by id, ascending
    tenures: Mapping[int, Tenure] = field(default_factory=dict)  # of slots that ever moved, ascending
    since: int = 0  # the version of the map by which slots without a tenure came; 0: no map has given them
    changes: int = 0  # how often slots came or left: OWN names the count that was read
    marks: bytes = b""  # of each slot its Mark; follows from the rest
    exported: Mapping[int, int] = field(default_factory=dict)  # noted slots and their moves; follows from the rest

    def __post_init__(self) -> None:
        if self.marks:
            return
        marks = bytearray(b"".join([_SPREAD[byte] for byte in self.owned]))
        for move in self.moves.values():
            if (mark := _MARK_OF.get(move.side)) is not None:
                for slot in move.slots:
                    marks[slot] = mark
        exported = {slot: move.move for move in self.moves.values() if move.side is Side.EXPORTING for slot in move.slots}
        object.__setattr__(self, "marks", bytes(marks))
        object.__setattr__(self, "exported", exported)

    def readable(self, key: bytes) -> bool:
        """Whether this cluster answers for the key."""
        return self.marks[slot_of(key)] != Mark.FOREIGN

    def came_by(self, slot: int) -> int:
        """Return the version of the map by which this cluster got a slot that it owns, or owned last."""
        tenure = self.tenures.get(slot)
        return self.since if tenure is None else tenure.map_version

    def tenure(self, key: bytes) -> Tenure:
        """The newest of the key's slot."""
        return self.tenures.get(slot_of(key), FROM_THE_BEGINNING)

    def refusal(self, keys: Iterable[bytes]) -> Outcome | None:
        """Why a write of these keys is refused; None: it is not."""
        moving: Outcome | None = None
        for key in keys:
            slot = slot_of(key)
            mark = self.marks[slot]
            if mark == Mark.FOREIGN:
                return Outcome(Status.WRONG_CLUSTER, self.map_version, value=_U16.pack(slot))
            if mark == Mark.FROZEN:
                moving = Outcome(Status.SLOT_MOVING, self.map_version, value=_U16.pack(slot))
        return moving

    def note(self, keys: Iterable[bytes], revision: int, txn: Txn) -> None:
        """These keys were written at this revision: leave a note for each that is being copied."""
        for key in keys:
            move = self.exported.get(slot_of(key))
            if move is not None:
                txn.put(Database.OWNERSHIP, _note_key(move, key), _U64.pack(revision))


def refused_slot(outcome: Outcome) -> int:
    """The slot that a WRONG_CLUSTER or SLOT_MOVING outcome names."""
    return int.from_bytes(outcome.value, "big")


# --- taking steps


class Taken(NamedTuple):
    """What a step left."""

    ownership: Ownership | None  # None: the cluster stays unmanaged
    more: bool = False  # PURGE, DROP: keys are left; OWN: keys are to be purged
    next_chunk: int = 0  # IMPORT, IMPORT_CHUNK
    taken: bool = False  # IMPORT_CHUNK: the keys of this very request were taken
    revision: int = 0  # the cluster's must not be below it
    left: int = 0  # RELEASE: the revision up to which the slots' keys were written here
    gains: bool = False  # ACTIVATE, OWN: slots are this cluster's that were not


def take_step(ownership: Ownership | None, command: SlotsCommand, revision: int, txn: Txn) -> Taken:
    """Take one step; `revision` is the cluster's. Raises StepError where it does not fit, and then has written nothing."""
    if command.step is Step.OWN:
        taken = _own(ownership, command, max(revision, command.revision))
    elif ownership is None:
        if command.step in (Step.UNFREEZE, Step.DROP):
            return Taken(None)  # nothing was begun here, so there is nothing to take back
        raise StepError(f"this cluster was never told which slots it owns, so none can move: {RECONCILE}")
    else:
        if not 0 < command.move < MOVE_ID_END:
            raise StepError(f"a step {command.step.name} of move {command.move}: ids are 1 to {MOVE_ID_END - 1}")
        taken = _STEPS[command.step](ownership, command, max(revision, command.revision), txn)
    _write_changes(ownership, taken.ownership, txn)
    return taken


def _own(before: Ownership | None, command: SlotsCommand, revision: int) -> Taken:
    """Own exactly these slots, by this version of the map, and end the migrations that are named.

    The command names how often slots had come or left when the cluster was asked what it owns, so what was worked out from an
    older answer is refused. Slots that are lost become a released migration with the id of the command: PURGE deletes their keys.
    Slots that come have the keys which an ended migration brought here, and no others.
    """
    own = before or Ownership(ALL_SLOTS)
    owned = bitmap(command.slots)
    if before is not None and (owned, command.map_version) == (own.owned, own.map_version):
        return Taken(own, more=command.move in own.moves)
    if command.expected != own.changes:
        raise StepError(
            f"slots have come or left {own.changes} times here, and this was worked out after {command.expected}: what the "
            "cluster owns has changed since it was asked"
        )
    if command.map_version <= own.map_version:
        raise StepError(
            f"map version {command.map_version} is not newer than {own.map_version}, the newest that this cluster knows"
        )
    for migration in own.moves.values():
        here = bitmap(migration.slots)
        if migration.move not in command.ended and difference(here, owned) != difference(here, own.owned):
            raise StepError(f"move {migration.move} is under way here, and this step changes what it moves without ending it")
    lost = slots_of(difference(own.owned, owned))
    came = slots_of(difference(owned, own.owned))
    if lost and came:
        raise StepError(f"a cluster loses slots ({len(lost)}) before it gains any ({len(came)}): those are two steps")
    left = {move_id: _left_of(move, command.ended, owned) for move_id, move in own.moves.items()}
    moves = {move_id: move for move_id, move in left.items() if move is not None}
    if lost:
        if command.move in moves or not own.last_move < command.move < MOVE_ID_END:
            raise StepError(f"id {command.move} is not above {own.last_move}, which was the last that ended here")
        moves[command.move] = SlotMove(command.move, Side.RELEASED, lost)
    if len(moves) > MOVES_MAX:
        raise StepError(f"{len(own.moves)} moves are under way here, which is the most: finish one first")
    version = command.map_version
    over = [move_id for move_id in own.moves if move_id not in moves]
    last = max(own.last_move, *over, 0)
    arrived = (
        last in over and own.moves[last].side is Side.IMPORTING and difference(bitmap(own.moves[last].slots), owned) == NO_SLOTS
    )
    owning = _remade(
        own,
        owned=owned,
        map_version=version,
        changes=own.changes + 1,
        moves=dict(sorted(moves.items())),
        tenures=_with_tenures(own, _gone(own, lost, revision) | dict.fromkeys(came, Tenure(revision, 0, version))),
        last_move=last,
        last_end=own.last_end if last not in over else int(Step.ACTIVATE if arrived else Step.OWN),
    )
    return Taken(owning, more=bool(lost), revision=revision, gains=bool(came))


def _left_of(move: SlotMove, ended: Sequence[int], owned: bytes) -> SlotMove | None:
    """What a migration is after OWN; None: it is over."""
    if move.move not in ended:
        return move
    if move.side in (Side.EXPORTING, Side.FROZEN):
        return None
    return _without_slots(move, owned)


def _without_slots(move: SlotMove, slots: bytes) -> SlotMove | None:
    """A released or called off migration to which these slots no longer belong; None: it has none left, and is over."""
    left = slots_of(difference(bitmap(move.slots), slots))
    side = Side.RELEASED if move.side is Side.RELEASED else Side.DROPPING
    return replace(move, slots=left, side=side) if left else None


def _export(own: Ownership, command: SlotsCommand, _revision: int, _txn: Txn) -> Taken:
    move = _begun(own, command, SOURCE)
    if move is not None:
        _check_mover(move, command)
        return Taken(_with_move(own, replace(move, mover=command.mover)) if command.mover > move.mover else own)
    for slot in command.slots:
        if own.marks[slot] != Mark.OWNED:
            what = "is not this cluster's" if own.marks[slot] == Mark.FOREIGN else "is in another move"
            raise StepError(f"slot {slot} {what}: move {command.move} cannot export it")
    return Taken(_with_move(own, SlotMove(command.move, Side.EXPORTING, command.slots, mover=command.mover)))


def _freeze(own: Ownership, command: SlotsCommand, _revision: int, _txn: Txn) -> Taken:
    move = _under_way(own, command, SOURCE)
    _check_mover(move, command)
    return Taken(_with_move(own, replace(move, side=Side.FROZEN)) if move.side is Side.EXPORTING else own)


def _unfreeze(own: Ownership, command: SlotsCommand, _revision: int, _txn: Txn) -> Taken:
    if _is_over(own, command):
        return Taken(own)
    if command.move in own.moves:
        _under_way(own, command, (Side.EXPORTING, Side.FROZEN))
    return Taken(_without_move(own, command))


def _release(own: Ownership, command: SlotsCommand, revision: int, _txn: Txn) -> Taken:
    if _ended(own, command, Step.PURGE):
        return Taken(own)
    move = _under_way(own, command, (Side.FROZEN, Side.RELEASED))
    if move.side is Side.RELEASED:
        return Taken(own, left=own.tenures[move.slots[0]].left)
    owned = difference(own.owned, bitmap(move.slots))
    moves = {**own.moves, move.move: replace(move, side=Side.RELEASED)}
    tenures = _with_tenures(own, _gone(own, move.slots, revision))
    released = _remade(_at_map(own, command), owned=owned, moves=moves, tenures=tenures)
    return Taken(released, left=revision)


def _purge(own: Ownership, command: SlotsCommand, _revision: int, txn: Txn) -> Taken:
    if _ended(own, command, Step.PURGE):
        return Taken(own)
    return _delete_keys(own, command, _under_way(own, command, (Side.RELEASED,)), txn)


def _delete_keys(own: Ownership, command: SlotsCommand, move: SlotMove, txn: Txn) -> Taken:
    _check_keys(move, command.keys)
    for key, _, _ in command.keys:
        txn.delete(Database.KV, key)
    return Taken(_without_move(own, command)) if command.last else Taken(own, more=True)


def _import(own: Ownership, command: SlotsCommand, revision: int, _txn: Txn) -> Taken:
    move = _begun(own, command, (Side.IMPORTING,))
    if move is not None:
        skipped = replace(move, next_chunk=move.next_chunk + CHUNKS_IN_FLIGHT_MAX)
        return Taken(_with_chunks(own, skipped), next_chunk=skipped.next_chunk, revision=revision)
    kept = _without_strays(own, command)
    taken = {slot for other in kept.moves.values() for slot in other.slots}
    for slot in command.slots:
        if own.marks[slot] != Mark.FOREIGN or slot in taken:
            what = "is in another move" if slot in taken else "is this cluster's already"
            raise StepError(f"slot {slot} {what}: move {command.move} cannot import it")
    fresh = SlotMove(command.move, Side.IMPORTING, command.slots)
    return Taken(_with_move(kept, fresh), next_chunk=fresh.next_chunk, revision=revision)


def _without_strays(own: Ownership, command: SlotsCommand) -> Ownership:
    """Take the slots of this import from earlier imports that never ended here.

    Their source owns the slots again, since it exports them anew: what the earlier ones brought is what a first pass compares.
    """
    slots = bitmap(command.slots)
    moves: dict[int, SlotMove] = {}
    for move_id, move in own.moves.items():
        stray = move.side in (Side.IMPORTING, Side.DROPPING) and move_id < command.move
        if not stray or difference(bitmap(move.slots), slots) == bitmap(move.slots):
            moves[move_id] = move
        elif (rest := _without_slots(move, slots)) is not None:
            moves[move_id] = rest
    ended = max([own.last_move, *(move for move in own.moves if move not in moves)])
    if moves == own.moves:
        return own
    return _remade(own, moves=moves, last_move=ended, last_end=own.last_end if ended == own.last_move else int(Step.DROP))


def _import_chunk(own: Ownership, command: SlotsCommand, revision: int, txn: Txn) -> Taken:
    move = _under_way(own, command, (Side.IMPORTING,))
    if command.chunk != move.next_chunk:
        return Taken(own, next_chunk=move.next_chunk)
    _check_keys(move, command.keys)
    for _, _, key_revision in command.keys:
        if key_revision > revision:
            raise StepError(
                f"a key of revision {key_revision} in a chunk of revision {revision}: it cannot be newer than its source"
            )
    for key, value, key_revision in command.keys:
        if key_revision:
            txn.put(Database.KV, key, _U64.pack(key_revision) + value)
        else:
            txn.delete(Database.KV, key)
    grown = replace(move, next_chunk=move.next_chunk + 1)
    return Taken(_with_chunks(own, grown), next_chunk=grown.next_chunk, taken=True, revision=revision)


def _with_chunks(own: Ownership, move: SlotMove) -> Ownership:
    """With another `next_chunk` of a move. What holds for keys stays, and so need not be worked out again."""
    return replace(own, moves={**own.moves, move.move: move})


def _activate(own: Ownership, command: SlotsCommand, revision: int, _txn: Txn) -> Taken:
    if _ended(own, command, Step.ACTIVATE):
        return Taken(own)
    move = _under_way(own, command, (Side.IMPORTING,))
    owned = union(own.owned, bitmap(move.slots))
    came = dict.fromkeys(move.slots, Tenure(command.revision, 0, command.map_version))
    activated = _remade(_at_map(_without_move(own, command), command), owned=owned, tenures=_with_tenures(own, came))
    return Taken(activated, revision=revision, gains=True)


def _drop(own: Ownership, command: SlotsCommand, _revision: int, txn: Txn) -> Taken:
    if _is_over(own, command):
        return Taken(own)
    if command.move not in own.moves:
        return Taken(_without_move(own, command))
    move = _under_way(own, command, (Side.IMPORTING, Side.DROPPING))
    if move.side is Side.DROPPING:
        return _delete_keys(own, command, move, txn)
    if command.keys or command.last:
        raise StepError(f"move {move.move} is still importing: the first DROP ends that, and names no keys")
    return Taken(_with_move(own, replace(move, side=Side.DROPPING)), more=True)


def _settle(own: Ownership, command: SlotsCommand, _revision: int, txn: Txn) -> Taken:
    over = _is_over(own, command)
    if not over:
        _under_way(own, command, SOURCE)
    for key, _, _ in command.keys:
        note = _note_key(command.move, key)
        noted = txn.get(Database.OWNERSHIP, note)
        if noted is not None and (over or _U64.unpack(noted)[0] <= command.revision):
            txn.delete(Database.OWNERSHIP, note)
    return Taken(own)


_STEPS: Final[dict[Step, Callable[[Ownership, SlotsCommand, int, Txn], Taken]]] = {
    Step.EXPORT: _export,
    Step.FREEZE: _freeze,
    Step.UNFREEZE: _unfreeze,
    Step.RELEASE: _release,
    Step.PURGE: _purge,
    Step.IMPORT: _import,
    Step.IMPORT_CHUNK: _import_chunk,
    Step.ACTIVATE: _activate,
    Step.DROP: _drop,
    Step.SETTLE: _settle,
}


def _begun(own: Ownership, command: SlotsCommand, sides: tuple[Side, ...]) -> SlotMove | None:
    """The move that this step began already; None: it may begin it now. Raises StepError for one that it cannot."""
    move = own.moves.get(command.move)
    if move is not None:
        if move.side not in sides or move.slots != command.slots:
            raise StepError(f"move {command.move} is under way here as {move.side.name}, with {len(move.slots)} slots of its own")
        return move
    _check_not_over(own, command)
    if not command.slots:
        raise StepError(f"move {command.move} names no slots")
    if len(own.moves) >= MOVES_MAX:
        raise StepError(f"{len(own.moves)} moves are under way here, which is the most: finish one first")
    return None


def _under_way(own: Ownership, command: SlotsCommand, sides: tuple[Side, ...]) -> SlotMove:
    """The move of a step that needs it to be on one of these sides. Raises StepError."""
    move = own.moves.get(command.move)
    if move is None:
        _check_not_over(own, command)
        raise StepError(f"this cluster knows no move {command.move}: {command.step.name} is not its first step")
    if move.side not in sides:
        wanted = " or ".join(side.name for side in sides)
        raise StepError(f"move {command.move} is {move.side.name} here: {command.step.name} needs it to be {wanted}")
    return move


def _is_over(own: Ownership, command: SlotsCommand) -> bool:
    """Whether the move has ended here, however it did: there is nothing left to take back."""
    return command.move not in own.moves and command.move <= own.last_move


def _check_not_over(own: Ownership, command: SlotsCommand) -> None:
    if command.move <= own.last_move:
        raise StepError(
            f"move {command.move} is over here, as is every one up to {own.last_move}: {command.step.name} comes too late"
        )


def _check_mover(move: SlotMove, command: SlotsCommand) -> None:
    if command.mover < move.mover:
        raise StepError(
            f"the mover of term {command.mover} was replaced in move {move.move} by that of {move.mover}: "
            f"its {command.step.name} comes too late"
        )


def _ended(own: Ownership, command: SlotsCommand, end: Step) -> bool:
    """Whether the step is one of those that led to the end that the move came to, and so may be said again."""
    return command.move not in own.moves and command.move == own.last_move and own.last_end == end


def _at_map(own: Ownership, command: SlotsCommand) -> Ownership:
    """The ownership in which slots come or leave by the map that the step names, which may be older than another one's."""
    return replace(own, map_version=max(own.map_version, command.map_version), changes=own.changes + 1)


def _check_keys(move: SlotMove, keys: Sequence[MovedKey]) -> None:
    slots = frozenset(move.slots)
    for key, _, _ in keys:
        if (slot := slot_of(key)) not in slots:
            raise StepError(f"a key of slot {slot}, which move {move.move} does not move")


def _remade(own: Ownership, **changes: object) -> Ownership:
    """A replacement whose slots stand otherwise than before."""
    return replace(own, marks=b"", exported={}, **changes)  # type: ignore[arg-type]  # names and types are those of the fields


def _with_tenures(own: Ownership, changed: Mapping[int, Tenure]) -> Mapping[int, Tenure]:
    return dict(sorted({**own.tenures, **changed}.items()))


def _gone(own: Ownership, slots: Sequence[int], revision: int) -> dict[int, Tenure]:
    """The tenures of owned slots that leave at this revision."""
    return {slot: own.tenures.get(slot, Tenure(map_version=own.since))._replace(left=revision) for slot in slots}


def _with_move(own: Ownership, move: SlotMove) -> Ownership:
    return _remade(own, moves=dict(sorted({**own.moves, move.move: move}.items())))


def _without_move(own: Ownership, command: SlotsCommand) -> Ownership:
    """The move is over, by this step."""
    moves = {move: other for move, other in own.moves.items() if move != command.move}
    if command.move < own.last_move:
        return _remade(own, moves=moves)
    return _remade(own, moves=moves, last_move=command.move, last_end=int(command.step))


# --- records


def _note_key(move: int, key: bytes) -> bytes:
    return b"n" + _U64.pack(move) + key


def write_ownership(txn: Txn, ownership: Ownership) -> None:
    """Make a state that of a managed cluster; the state has no ownership records."""
    _write_changes(None, ownership, txn)


def founded(owned: bytes, map_version: int) -> Ownership:
    """The ownership of a cluster that is founded with these slots by a version of the map."""
    return Ownership(owned, map_version, since=map_version)


def _write_changes(before: Ownership | None, after: Ownership | None, txn: Txn) -> None:
    """Write what differs."""
    if before is after or after is None:
        return
    head = _head(after)
    if before is None or head != _head(before):
        txn.put(Database.OWNERSHIP, _OWNED_KEY, head)
    known = before.moves if before is not None else {}
    for move_id in known:
        if move_id not in after.moves:
            txn.delete(Database.OWNERSHIP, b"m" + _U64.pack(move_id))
    for move_id, move in after.moves.items():
        if known.get(move_id) != move:
            record = _MOVE.pack(RECORD_VERSION, move.side, move.mover if move.side in SOURCE else move.next_chunk)
            txn.put(Database.OWNERSHIP, b"m" + _U64.pack(move_id), record + struct.pack(f">{len(move.slots)}H", *move.slots))
    if before is None or before.tenures is not after.tenures:
        for slot, tenure in after.tenures.items():
            if before is None or before.tenures.get(slot) != tenure:
                txn.put(Database.OWNERSHIP, b"t" + _U16.pack(slot), _TENURE.pack(*tenure))


def _head(own: Ownership) -> bytes:
    return (
        _OWNED.pack(RECORD_VERSION, own.map_version, own.last_move, own.last_end)
        + own.owned
        + _LATER.pack(own.since, own.changes)
    )


def read_ownership(reader: Reader) -> Ownership | None:
    """What the records say; None: the cluster is unmanaged. Raises OwnershipVersionError, ValueError, struct.error."""
    head = reader.get(Database.OWNERSHIP, _OWNED_KEY)
    if head is None:
        return None
    pairs = reader.scan(Database.OWNERSHIP, b"m", b"n")
    moves = {move.move: move for move in (_read_move(key, record) for key, record in pairs)}
    tenures = {_U16.unpack(key[1:])[0]: _read_tenure(record) for key, record in reader.scan(Database.OWNERSHIP, b"t", b"u")}
    return _read_head(head, moves, tenures)


def _read_head(head: bytes, moves: Mapping[int, SlotMove], tenures: Mapping[int, Tenure]) -> Ownership:
    if head[:1] > bytes((RECORD_VERSION,)):
        raise OwnershipVersionError(head[0])
    _, map_version, last_move, last_end = _OWNED.unpack_from(head)
    owned = head[_OWNED.size : -_LATER.size]
    if len(owned) != BITMAP_BYTES:
        raise ValueError(f"a set of slots of {len(owned)} bytes")
    since, changes = _LATER.unpack(head[-_LATER.size :])
    return Ownership(owned, map_version, last_move, last_end, moves, tenures, since, changes)


def _read_tenure(record: bytes) -> Tenure:
    return Tenure(*_TENURE.unpack(record))


def _read_move(key: bytes, record: bytes) -> SlotMove:
    if record[:1] > bytes((RECORD_VERSION,)):
        raise OwnershipVersionError(record[0])
    (move_id,) = _U64.unpack(key[1:])
    _, code, number = _MOVE.unpack_from(record)
    slots = struct.unpack(f">{(len(record) - _MOVE.size) // 2}H", record[_MOVE.size :])
    if not slots or slots[-1] >= SLOT_COUNT:
        raise ValueError(f"move {move_id} has {len(slots)} slots, up to {max(slots, default=0)}")
    side = Side(code)
    return SlotMove(move_id, side, slots, mover=number) if side in SOURCE else SlotMove(move_id, side, slots, number)


def record_problem(key: bytes, payload: bytes, revision: int) -> str:
    """Why this record of Database.OWNERSHIP cannot be what a machine at this revision wrote; empty if it can."""
    try:
        if key == _OWNED_KEY:
            _read_head(payload, {}, {})
        elif key[:1] == b"m":
            _read_move(key, payload)
        elif key[:1] == b"n" and len(key) > 1 + _U64.size:
            (noted,) = _U64.unpack(payload)
            if noted > revision:
                return f"a note of revision {noted}, and the cluster's is {revision}"
        elif key[:1] == b"t" and len(key) == 1 + _U16.size:
            tenure = _read_tenure(payload)
            if max(tenure.came, tenure.left) > revision or _U16.unpack(key[1:])[0] >= SLOT_COUNT:
                return f"a slot that came after revision {tenure.came} and left at {tenure.left}, and the cluster's is {revision}"
        else:
            return f"no record of this database has such a key of {len(key)} bytes"
    except (OwnershipVersionError, ValueError, struct.error) as error:
        return f"it cannot be read: {error}"
    return ""


# --- looking for keys


class Noted(NamedTuple):
    """A note: the key was written at this revision."""

    key: bytes
    revision: int


def notes(reader: Reader, move: int, after: bytes = b"") -> Iterator[Noted]:
    """The notes of a move whose keys lie above `after`, in byte order. Valid until the next await of the caller."""
    start = _note_key(move, after + b"\0" if after else b"")
    for key, revision in reader.scan(Database.OWNERSHIP, start, _note_key(move + 1, b"")):
        yield Noted(key[9:], _U64.unpack(revision)[0])


def first_dead_note(reader: Reader, ownership: Ownership) -> int:
    """The id of a move that is over and has left notes behind; 0: there is none."""
    start = b"n"
    while (found := next(reader.scan(Database.OWNERSHIP, start, b"o"), None)) is not None:
        (move,) = _U64.unpack_from(found[0], 1)
        if move not in ownership.moves:
            return int(move)
        start = _note_key(move + 1, b"")
    return 0


def moved_key(reader: Reader, key: bytes, *, keys_only: bool = False) -> MovedKey:
    """The key as it is now."""
    record = reader.get(Database.KV, key)
    if record is None:
        return MovedKey(key, b"", 0)
    return MovedKey(key, b"" if keys_only else record[8:], int.from_bytes(record[:8], "big"))
