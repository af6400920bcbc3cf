"""Random commands against the plain model: the same answers, the same directory, and what must hold of every directory.

The same log gives the same bytes on a replica that was restarted in the middle, and on one that began with a copy of the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.admin.answers import RefusedError, read_answer
from ravel_node.admin.codec import encode
from ravel_node.admin.commands import (
    AdoptCluster,
    BeginMove,
    Command,
    DecideMove,
    FinishMove,
    ForgetServer,
    MarkLeaving,
    PlanMoves,
    PlannedMove,
    RegisterServer,
    RemoveCluster,
    ReportMembership,
    Seated,
    SetCluster,
    SetSlotMap,
    VacateAddress,
)
from ravel_node.admin.model import Directory, Phase, Seat
from ravel_node.admin.movement import seen_by
from ravel_node.admin.records import RULES
from ravel_node.machine.base import Database, Outcome
from ravel_node.raft.types import Index
from tests.admin.helpers import Admin, hex_id, registering
from tests.admin.plain_model import Model, Row, plain

COMMANDS = 80


class Chance:
    """Commands that mean something to the directory as it is, and some that do not."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.drawn = 10_000

    def command(self, directory: Directory) -> Command:
        kinds: list[Callable[[Directory], Command]] = [self.register] * 5 + [self.report] * 5 + [self.plan] * 3
        moving: list[Callable[[Directory], Command]] = [self.begin, self.decide, self.finish] * 3
        seldom: list[Callable[[Directory], Command]] = [self.leave, self.forget, self.set, self.remove, self.adopt, self.vacate]
        seldom.append(self.set_slot_map)
        return self.random.choice(kinds + moving + seldom)(directory)

    def fresh(self) -> str:
        self.drawn += self.random.random() < 0.9
        return hex_id(self.drawn)

    def register(self, directory: Directory) -> RegisterServer:
        number = self.random.randrange(1, 9)
        fields: dict[str, object] = {"fresh_id": self.fresh()}
        if self.random.random() < 0.4:
            fields["new_cluster"] = self.random.choice("abc")
        if self.random.random() < 0.1:
            fields["name"] = f"n{self.random.randrange(1, 9)}"
        if self.random.random() < 0.1:
            fields["listen"] = registering(self.random.randrange(1, 9)).listen
        if self.random.random() < 0.3:
            replica_id = number if self.random.random() < 0.8 else self.random.randrange(1, 9)
            fields |= {"cluster_id": self.cluster_id(directory), "replica_id": replica_id}
        return registering(number, **fields)

    def report(self, directory: Directory) -> ReportMembership:
        cluster_id = self.cluster_id(directory)
        known = directory.cluster_of_id(cluster_id)
        mine = [server.server_id for server in directory.servers_of(known.number)] if known else []
        others = [hex_id(number) for number in range(1, 10)]
        ids = {one for one in mine if self.random.random() < 0.8} | {one for one in others if self.random.random() < 0.1}
        chosen = sorted(ids) or [self.random.choice(others)]
        members = tuple(Seated(one, int(one, 16), self.random.random() < 0.2) for one in chosen)
        term, index = (known.term, known.config_index) if known else (1, 1)
        term, index = (max(1, number + self.random.choice((-1, 0, 1, 1, 2))) for number in (term, index))
        return ReportMembership(cluster_id, self.random.choice(chosen), term, index, members)

    def cluster_id(self, directory: Directory) -> str:
        known = [cluster.cluster_id for cluster in directory.clusters.values()]
        former = [one for cluster in directory.clusters.values() for one in cluster.superseded]
        return self.random.choice([*known * 5, *former[:2], hex_id(5)])

    def leave(self, _directory: Directory) -> MarkLeaving:
        return MarkLeaving(hex_id(self.random.randrange(1, 10)))

    def forget(self, _directory: Directory) -> ForgetServer:
        return ForgetServer(hex_id(self.random.randrange(1, 10)))

    def set(self, _directory: Directory) -> SetCluster:
        return SetCluster(self.random.choice("abc"), self.fresh(), self.random.randrange(0, 6), self.random.random() < 0.3)

    def remove(self, _directory: Directory) -> RemoveCluster:
        return RemoveCluster(self.random.choice(["a", "b", "c", "default"]))

    def adopt(self, directory: Directory) -> AdoptCluster:
        name = self.random.choice(["a", "b", "c", "default"])
        known = directory.cluster_named(name)
        old = known.cluster_id if known is not None and self.random.random() < 0.9 else hex_id(6)
        new = self.fresh() if self.random.random() < 0.8 else self.cluster_id(directory)
        return AdoptCluster(name, old, new if new != old else hex_id(7))

    def vacate(self, directory: Directory) -> VacateAddress:
        number = self.random.randrange(1, 10)
        known = directory.servers.get(hex_id(number))
        usual = registering(number)
        listen, peer = (known.listen, known.peer) if known is not None and known.listen else (usual.listen, usual.peer)
        return VacateAddress(hex_id(number), listen, peer)

    def plan(self, directory: Directory) -> PlanMoves:
        slots = self.random.sample(range(6), 3)  # few, so that moves meet
        right = self.random.random() < 0.9
        moves = []
        for slot in slots[: self.random.randrange(1, 4)]:
            owner = directory.slot_map.owners[slot] if right else 1
            others = [number for number in (*directory.clusters, 7) if number != owner]
            moves.append(
                PlannedMove((slot,), max(owner, 1), self.random.choice([other for other in others if other != max(owner, 1)]))
            )
        version = directory.slot_map.version + (0 if right else 1)
        return PlanMoves(max(version, 1), tuple(moves))

    def set_slot_map(self, directory: Directory) -> SetSlotMap:
        owners: list[int] = [*directory.slot_map.owners]
        for slot in self.random.sample(range(6), 2):
            owners[slot] = self.random.choice([0, 1, *directory.clusters])
        touched = [move for move, known in directory.moves.items() if any(owners[slot] != known.source for slot in known.slots)]
        struck = [move for move in touched if self.random.random() < 0.9]
        seen = seen_by(directory) if self.random.random() < 0.9 else "0" * 32
        newest = self.random.randrange(1, 40)
        return SetSlotMap(seen, tuple(owners), tuple(sorted(struck)), newest, self.random.randrange(1 << 22))

    def begin(self, directory: Directory) -> BeginMove:
        return BeginMove(self.move(directory))

    def decide(self, directory: Directory) -> DecideMove:
        return DecideMove(self.move(directory), self.random.random() < 0.7)

    def finish(self, directory: Directory) -> FinishMove:
        return FinishMove(self.move(directory))

    def move(self, directory: Directory) -> int:
        return self.random.choice([*directory.moves] * 3 + [1])


def answer(outcome: Outcome) -> Row | str:
    try:
        return read_answer(outcome)
    except RefusedError as refused:
        return str(refused.reason)


def invariants(directory: Directory) -> None:
    """What holds of every directory, whatever was asked of it."""
    assert set(directory.slot_map.owners) - {0} <= set(directory.clusters)
    assert max(directory.slot_map.decided) <= directory.slot_map.version
    clusters = list(directory.clusters.values())
    assert len({cluster.name for cluster in clusters}) == len({cluster.cluster_id for cluster in clusters}) == len(clusters)
    known = [server for server in directory.servers.values() if server.listen]
    addresses = [address for server in known for address in (server.listen, server.peer)]
    assert len(set(addresses)) == len(addresses)
    names = Counter((server.cluster, server.name) for server in known)
    ids = Counter((server.cluster, server.replica_id) for server in directory.servers.values() if server.replica_id)
    assert set(names.values()) | set(ids.values()) <= {1}
    for server in directory.servers.values():
        assert server.cluster in directory.clusters
        assert server.seat is Seat.ASSIGNED or directory.clusters[server.cluster].founded
    for cluster in clusters:
        assert cluster.founded or not cluster.founder_id or directory.servers[cluster.founder_id].cluster == cluster.number
    moving = [slot for move in directory.moves.values() for slot in move.slots]
    assert len(set(moving)) == len(moving)
    begun = [move for move in directory.moves.values() if move.phase in (Phase.COPYING, Phase.COMMITTED)]
    ends = [number for move in begun for number in (move.source, move.destination)]
    assert len(set(ends)) == len(ends)
    for move in directory.moves.values():
        owner = move.destination if move.phase is Phase.COMMITTED else move.source
        assert {directory.slot_map.owners[slot] for slot in move.slots} == {owner}
    assert list(directory.moves) == sorted(directory.moves)


@settings(max_examples=50)
@given(st.integers(0, 1 << 32))
def test_random_commands_do_what_the_model_says(seed: int) -> None:
    admin, model, chance = Admin(), Model(), Chance(Random(seed))
    for _ in range(COMMANDS):
        command = chance.command(admin.directory)
        (outcome,) = admin.entry(encode(command))
        assert answer(outcome) == model.run(command, admin.index), command
        assert plain(admin.directory) == model.content, command
        invariants(admin.directory)
        if not chance.random.randrange(10):
            view = admin.directory
            admin.reopen()
            assert admin.directory == view


@settings(max_examples=20)
@given(st.integers(0, 1 << 32))
def test_the_same_log_is_the_same_bytes(seed: int) -> None:
    one, chance = Admin(), Chance(Random(seed))
    log: list[list[bytes]] = []
    for _ in range(COMMANDS // 3):
        log.append([encode(chance.command(one.directory)) for _ in range(chance.random.randrange(1, 4))])
        one.entry(*log[-1])
    other, at = Admin(), chance.random.randrange(len(log))
    for number, bodies in enumerate(log):
        if number == at:
            copied = Admin()
            copied.state, copied.index = deepcopy(other.state), other.index
            copied.reopen()
            other = copied
        other.entry(*bodies)
    assert other.state.content() == one.state.content()
    assert other.directory == one.directory


@settings(max_examples=20)
@given(st.integers(0, 1 << 32))
def test_every_record_of_a_random_directory_passes_the_check(seed: int) -> None:
    admin, chance = Admin(), Chance(Random(seed))
    for _ in range(COMMANDS):
        admin.entry(encode(chance.command(admin.directory)))
    for key, record in admin.rows().items():
        assert RULES.record(Database.DIRECTORY, key, record, admin.state.get) == ""
    assert RULES.state(admin.state.get, Index(admin.index)) == []
