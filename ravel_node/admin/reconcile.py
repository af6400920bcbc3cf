"""Make the registry and the clusters agree about who owns which slot, whatever was restored or lost. Pure.

A cluster's own log is the truth about what it owns: for each slot it holds the version of the map by which the slot came. The
registry's map is what all have agreed on. `reconciliation` compares them, slot by slot, and says what is to be done:

- The newest version wins. A cluster that was restored holds a slot by an older version than the one to which it gave the slot.
- A destination that has all keys of a migration owns its slots by that migration's version, though it was not told yet: either
  the registry has committed it, or the source has released the slots, which it does only after that.
- A migration that the registry knows is left to the migrator while both its clusters stand where it can go on. Any other is
  over: its source keeps its slots, its destination drops what it was given.
- Of clusters that hold a slot by the same version the one that the registry names has it. That happens where a cluster was never
  told of slots by any map: it holds all of them by version 0.
- Keys that may be lost are lost only with consent. A slot opens only where its loss is accepted if nobody owns it, or nobody
  who had it last; if its version is not newer than the one by which the registry gave it to somebody else; or if its keys would
  be deleted at a cluster to which no map ever gave it, while the new owner has none.
- A cluster that does not answer keeps what the registry says is its own.

Why the newest version is right: a version of the map is made by one entry of the registry's log, and a restored registry begins
above all versions that it may have made before (DirectoryMachine.refounded). A slot comes to a cluster by the version that
committed its migration, after its earlier owner has let go, or by an OWN of a newer version than any. So of two clusters that
hold a slot the one with the older version has let go of it once, and was restored from before that; what it holds was copied
from it, or given up with consent.

Clusters lose slots before any gains one, as in a migration: no two of them take writes for one slot.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ravel_node.admin.model import NOBODY, ClusterNumber, Directory, Move, MoveId, Phase
from ravel_node.machine.ownership import Side
from ravelpb.slots import SLOT_COUNT

NO_VERSION: Final = 0
"""By which a cluster holds its slots that was never told of any map."""


RUN_SLOTS: Final = 256
"""Slots that nobody owns go to one cluster in runs so long."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration as one of its clusters knows it."""

    side: Side
    slots: tuple[int, ...]  # ascending
    versions: tuple[int, ...] = ()  # RELEASED: of each slot the version by which it had come


@dataclass(frozen=True, slots=True)
class Report:
    """What one cluster says of itself."""

    managed: bool  # false: it owns all slots, and no map ever said so
    versions: Mapping[int, int]  # of each slot that it owns
    map_version: int = 0
    changes: int = 0  # how often slots came or left
    last_move: int = 0
    revision: int = 0
    migrations: Mapping[int, Migration] = field(default_factory=dict)  # by id
    held: frozenset[int] = frozenset()  # slots of which there are keys, visible or not


@dataclass(frozen=True, slots=True)
class Change:
    """What one cluster is to be told (OWN)."""

    cluster: ClusterNumber
    expected: int  # how often slots had come to it or left
    owned: frozenset[int]  # now
    lost: frozenset[int] = frozenset()
    gained: frozenset[int] = frozenset()  # after that; a slot in both comes back by a newer version, with its keys
    ended: tuple[int, ...] = ()  # migrations, ascending


class Loss(NamedTuple):
    """Slots that open only where their loss is accepted."""

    cluster: ClusterNumber  # that is to own them
    reason: str
    slots: tuple[int, ...]
    accepted: bool


class Cleaning(NamedTuple):
    """A migration that is over for its cluster, whose keys are to be deleted there."""

    cluster: ClusterNumber
    move: int
    side: Side  # RELEASED: by PURGE; DROPPING: by DROP


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    owners: tuple[ClusterNumber, ...]  # of the map
    struck: tuple[MoveId, ...]  # migrations of the registry, ascending
    changes: tuple[Change, ...]  # by cluster
    cleaning: tuple[Cleaning, ...]  # once the changes are made; at first only what earlier ones have left
    losses: tuple[Loss, ...]
    map_version: int  # the newest that is known anywhere
    last_move: int  # the newest id that is known anywhere
    revision: int  # the highest of all clusters
    registry_changes: bool

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.registry_changes or self.changes or self.cleaning)

    @property
    def name(self) -> str:
        """A name for what this plan decides: two plans of one name change the same."""
        told = [(change.cluster, sorted(change.lost), sorted(change.gained), change.ended) for change in self.changes]
        decided = (self.owners, self.struck, told, [loss[:3] for loss in self.losses])
        return hashlib.sha256(repr(decided).encode()).hexdigest()[:16]


def reconciliation(directory: Directory, reports: Mapping[ClusterNumber, Report], accepted: Collection[int] = ()) -> Plan:
    """Return what is to be done; `reports` has the clusters that answered, `accepted` the slots that may lose keys."""
    return _Reconciliation(directory, reports, frozenset(accepted)).plan()


class _Fate(NamedTuple):
    """What becomes of one slot."""

    owner: ClusterNumber  # of the map
    settled: bool = True  # false: each cluster keeps what it has, or each of `keepers`
    keepers: frozenset[ClusterNumber] | None = None
    loss: tuple[ClusterNumber, str] | None = None  # who is to own it, and what is lost


class _Reconciliation:
    def __init__(self, directory: Directory, reports: Mapping[ClusterNumber, Report], accepted: frozenset[int]) -> None:
        self._directory = directory
        self._reports = {number: reports[number] for number in sorted(reports) if number in directory.clusters}
        self._accepted = accepted
        self._left_alone = {
            slot: move for move in directory.moves.values() if self._goes_on(move) for slot in move.slots
        }  # slots of migrations that the migrator carries on
        self._heirs = self._find_heirs()
        self._owned = Counter(directory.slot_map.owners)
        self._taking = NOBODY  # the cluster that takes the present run of slots

    def plan(self) -> Plan:
        fates = [self._fate(slot) for slot in range(SLOT_COUNT)]
        owners = tuple(fate.owner for fate in fates)
        struck = tuple(move_id for move_id, move in self._directory.moves.items() if move.slots[0] not in self._left_alone)
        changes = tuple(self._changes(fates))
        version = max([1, *(report.map_version for report in self._reports.values())])
        return Plan(
            owners=owners,
            struck=struck,
            changes=changes,
            cleaning=tuple(self._cleaning(fates)) if not changes else (),
            losses=tuple(self._losses(fates)),
            map_version=version,
            last_move=max([0, *(report.last_move for report in self._reports.values()), *self._ids()]),
            revision=max([0, *(report.revision for report in self._reports.values())]),
            registry_changes=bool(
                struck or changes or owners != self._directory.slot_map.owners or version > self._directory.slot_map.version
            ),
        )

    def _ids(self) -> Iterator[int]:
        for report in self._reports.values():
            yield from report.migrations

    # --- migrations

    def _goes_on(self, move: Move) -> bool:
        """Whether the migrator can carry this on from where its clusters stand. One that is away is waited for."""
        source, destination = self._reports.get(move.source), self._reports.get(move.destination)
        if source is None or destination is None:
            return not self._accepted.intersection(move.slots) and (source is None or self._can_wait(move, source))
        here, there = source.migrations.get(move.move_id), destination.migrations.get(move.move_id)
        owns, gets = _owned_of(source, move.slots), _owned_of(destination, move.slots)
        match move.phase:
            case Phase.PLANNED | Phase.COPYING:
                fresh = here is None and move.move_id > source.last_move
                begun = here is not None and here.side in (Side.EXPORTING, Side.FROZEN)
                waits = there is None and move.move_id > destination.last_move
                comes = there is not None and there.side is Side.IMPORTING
                goes_on = owns == len(move.slots) and not gets and (fresh or begun) and (waits or comes)
                return goes_on and self._newest_at(move.source, move.slots)
            case Phase.COMMITTED:
                if there is not None and there.side is Side.IMPORTING:
                    return here is not None and here.side in (Side.FROZEN, Side.RELEASED)
                activated = gets == len(move.slots) and there is None and destination.last_move == move.move_id
                purged = here is None and source.last_move == move.move_id
                return activated and not owns and (purged or (here is not None and here.side is Side.RELEASED))
            case Phase.ABORTED:
                off = owns == len(move.slots) and not gets and (here is None or here.side is not Side.RELEASED)
                return off and self._newest_at(move.source, move.slots)

    def _can_wait(self, move: Move, source: Report) -> bool:
        """Whether the source stands where the migration goes on once its destination answers."""
        if move.phase is Phase.COMMITTED:
            return True
        return _owned_of(source, move.slots) == len(move.slots) and self._newest_at(move.source, move.slots)

    def _newest_at(self, number: ClusterNumber, slots: Sequence[int]) -> bool:
        """Whether no cluster holds one of these slots by a newer version than this one does."""
        return all(claims[number] == max(claims.values()) for claims in map(self._claims, slots))

    def _find_heirs(self) -> dict[int, tuple[ClusterNumber, int]]:
        """Slots of which a destination has all keys and was not told that they are its own: which cluster, by which version."""
        released = {
            (move, slot): version
            for report in self._reports.values()
            for move, known in report.migrations.items()
            if known.side is Side.RELEASED
            for slot, version in zip(known.slots, known.versions, strict=True)
        }
        heirs: dict[int, tuple[ClusterNumber, int]] = {}
        for number, report in self._reports.items():
            for move_id, known in report.migrations.items():
                if known.side is not Side.IMPORTING:
                    continue
                of_registry = self._directory.moves.get(MoveId(move_id))
                committed = of_registry is not None and of_registry.phase is Phase.COMMITTED and of_registry.destination == number
                for slot in known.slots:
                    version = self._directory.slot_map.decided[slot] if committed else released.get((move_id, slot))
                    if version is not None and version >= heirs.get(slot, (NOBODY, 0))[1]:
                        heirs[slot] = number, version
        return heirs

    # --- slots

    def _fate(self, slot: int) -> _Fate:
        named = self._directory.slot_map.owners[slot]
        claims = self._claims(slot)
        if (move := self._left_alone.get(slot)) is not None:
            if move.source not in self._reports or (move.phase is Phase.COMMITTED and move.destination not in self._reports):
                return _Fate(named, settled=False)  # who holds the newest keys is not known
            unmapped = {number for number in claims if claims[number] == NO_VERSION and slot in self._reports[number].held}
            return _Fate(named, settled=False, keepers=frozenset({move.source, move.destination, *unmapped}))
        heir = self._heirs.get(slot)
        if heir is not None and heir[1] >= max(claims.values(), default=0):
            return _Fate(heir[0])
        if not claims:
            return self._nobodys(slot, named)
        newest = max(claims.values())
        released, holder = self._released(slot)
        if released > newest:
            lost = (
                f"{self._name(holder)} gave them away, had them by map version {released}, and still has keys of them; who got "
                f"them does not have them any more, and what {' and '.join(map(self._name, claims))} has is older"
            )
            return self._lossy(slot, named, holder, lost)
        winner, rivals = self._winner(slot, named, [number for number, version in claims.items() if version == newest])
        if rivals:
            names = " and ".join(self._name(number) for number in (winner, *rivals))
            return self._lossy(slot, named, winner, f"{names} each hold keys of them, and no map says whose they are")
        unheard = [
            number
            for number, version in claims.items()
            if version == NO_VERSION and number != winner and slot in self._reports[number].held
        ]
        if unheard and slot not in self._reports[winner].held:
            lost = f"{self._name(unheard[0])}, to which no map gave them, holds keys of them, and {self._name(winner)} has none"
            return self._lossy(slot, named, winner, lost)
        if named not in (NOBODY, winner) and newest <= self._directory.slot_map.decided[slot]:
            if named not in self._reports and slot not in self._accepted:
                return _Fate(named, settled=False)
            stands = (
                "does not answer" if named not in self._reports else "has older ones" if named in claims else "has them no more"
            )
            lost = (
                f"{self._name(winner)} holds them as they were before {self._name(named)} got them, "
                f"and {self._name(named)} {stands}: what was written since is lost"
            )
            return self._lossy(slot, named, winner, lost)
        return _Fate(winner)

    def _claims(self, slot: int) -> dict[ClusterNumber, int]:
        """The clusters that hold a slot, each with the version by which it does."""
        return {number: report.versions[slot] for number, report in self._reports.items() if slot in report.versions}

    def _winner(
        self, slot: int, named: ClusterNumber, first: Sequence[ClusterNumber]
    ) -> tuple[ClusterNumber, list[ClusterNumber]]:
        """Of clusters that hold a slot by the same version: whose it is to be, and those whose keys would be lost by that."""
        holding = [number for number in first if slot in self._reports[number].held]
        winner = named if named in first else (*holding, *first)[0]
        return winner, [number for number in holding if number != winner]

    def _nobodys(self, slot: int, named: ClusterNumber) -> _Fate:
        rest = self._released(slot)[1] or self._copied(slot)
        if named != NOBODY and named not in self._reports:
            target = rest or self._least()
            if target == NOBODY:
                return _Fate(named, settled=False)
            lost = f"{self._name(named)} does not answer, and all that it holds of them is given up"
            if slot not in self._accepted:
                # It is told only where somebody asks for it: a cluster that is away comes back as a rule.
                return _Fate(named, settled=False)
            return self._lossy(slot, named, target, lost)
        target = rest or named or self._least()
        if target == NOBODY:
            return _Fate(named, settled=False)
        keeps = f"what {self._name(target)} still has of them opens" if slot in self._reports[target].held else "they open empty"
        silent = [
            self._name(number) for number, one in self._directory.clusters.items() if one.founded and number not in self._reports
        ]
        perhaps = f"; {' and '.join(silent)}, which may own them, must answer first" if silent else ""
        return self._lossy(slot, named, target, f"no cluster that answers owns them: {keeps}{perhaps}")

    def _released(self, slot: int) -> tuple[int, ClusterNumber]:
        """Of the clusters that let go of a slot and have not purged its keys: who had it last, after the version by which it did.

        0 and NOBODY: there is none.
        """
        released = [
            (known.versions[known.slots.index(slot)], number)
            for number, report in self._reports.items()
            for known in report.migrations.values()
            if known.side is Side.RELEASED and slot in known.slots
        ]
        return max(released, default=(0, NOBODY))

    def _copied(self, slot: int) -> ClusterNumber:
        """Who was given keys of a slot by a migration that is over: better than none. Not all of them, perhaps."""
        for number, report in self._reports.items():
            given = (known for known in report.migrations.values() if known.side in (Side.IMPORTING, Side.DROPPING))
            if slot in report.held and any(slot in known.slots for known in given):
                return number
        return NOBODY

    def _least(self) -> ClusterNumber:
        """The cluster that takes the next slot that nobody owns: the one with the fewest, a run of slots at a time."""
        able = [number for number in self._reports if not self._directory.clusters[number].emptying]
        fewest = min(able, key=lambda number: (self._owned[number], number), default=NOBODY)
        if self._taking not in able or self._owned[self._taking] >= self._owned[fewest] + RUN_SLOTS:
            self._taking = fewest
        return self._taking

    def _lossy(self, slot: int, named: ClusterNumber, target: ClusterNumber, reason: str) -> _Fate:
        if slot in self._accepted:
            self._owned[target] += 1
            return _Fate(target, loss=(target, reason))
        return _Fate(named, settled=False, loss=(target, reason))

    # --- what follows

    def _changes(self, fates: Sequence[_Fate]) -> Iterator[Change]:
        for number, report in self._reports.items():
            wanted = frozenset(slot for slot, fate in enumerate(fates) if fate.settled and fate.owner == number)
            owned = frozenset(report.versions)
            # What a rival held was given up with consent: should it come back, its version must not be the newest.
            renewed = frozenset(slot for slot in owned & wanted if fates[slot].loss is not None)
            gained = wanted - owned | renewed
            lost = frozenset(slot for slot in owned - wanted if not _keeps(fates[slot], number)) | renewed
            ended = tuple(sorted(self._ended(report, fates, gained, lost)))
            if gained or lost or ended or not report.managed:
                yield Change(number, report.changes, owned, lost, gained, ended)

    def _ended(self, report: Report, fates: Sequence[_Fate], gained: frozenset[int], lost: frozenset[int]) -> Iterator[int]:
        """The migrations of a cluster that are over, and that it does not know to be over."""
        for move_id, known in report.migrations.items():
            if not all(fates[slot].settled for slot in known.slots):
                if (gained | lost).intersection(known.slots):
                    yield move_id
            elif known.side in (Side.EXPORTING, Side.FROZEN, Side.IMPORTING) or gained.intersection(known.slots):
                yield move_id

    def _cleaning(self, fates: Sequence[_Fate]) -> Iterator[Cleaning]:
        """What clusters still hold of migrations that the registry has not under way."""
        for number, report in self._reports.items():
            for move_id, known in report.migrations.items():
                if known.side in (Side.RELEASED, Side.DROPPING) and not any(_keeps(fates[slot], number) for slot in known.slots):
                    yield Cleaning(number, move_id, known.side)

    def _losses(self, fates: Sequence[_Fate]) -> Iterator[Loss]:
        grouped: dict[tuple[ClusterNumber, str], list[int]] = {}
        for slot, fate in enumerate(fates):
            if fate.loss is not None:
                grouped.setdefault(fate.loss, []).append(slot)
        for (cluster, reason), slots in grouped.items():
            for accepted in (False, True):
                if some := tuple(slot for slot in slots if (slot in self._accepted) is accepted):
                    yield Loss(cluster, reason, some, accepted)

    def _name(self, number: ClusterNumber) -> str:
        return f"cluster {self._directory.clusters[number].name}"


def _keeps(fate: _Fate, cluster: ClusterNumber) -> bool:
    """Whether a cluster keeps a slot that it has and is not to have in the end."""
    return not fate.settled and (fate.keepers is None or cluster in fate.keepers)


def _owned_of(report: Report, slots: Sequence[int]) -> int:
    """How many of these slots the cluster owns."""
    return sum(slot in report.versions for slot in slots)
