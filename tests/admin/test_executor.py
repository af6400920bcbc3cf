"""The mover, one step at a time: what it asks for in which order, and what it does when somebody does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ravel_node.admin.commands import BeginMove, DecideMove
from ravel_node.admin.executor import Mover, MoverOptions
from ravel_node.admin.model import ClusterNumber, Phase
from ravel_node.admin.ports import ClusterAwayError, StepImpossibleError, StepRefusedError
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import slots_pb2 as pb
from tests.admin.fake_clusters import FakeClusters, FakeDirectory, ModelCluster

KEYS = [f"k{number}".encode() for number in range(40)]
SLOTS = tuple(sorted({slot_of(key) for key in KEYS[:20]}))
TERM = 7
QUICK = MoverOptions(poll_s=0.001, retry_s=0.002, frozen_s_max=5.0)


class World:
    """Two clusters or more, the first of which owns everything and has KEYS."""

    def __init__(self, clusters: int = 2) -> None:
        self.directory = FakeDirectory(clusters)
        self.clusters = FakeClusters({n: ModelCluster(set()) for n in range(1, clusters + 1)})
        self.source, self.destination = self.clusters.clusters[1], self.clusters.clusters[2]
        self.source.owned = set(range(SLOT_COUNT))
        for key in KEYS:
            self.source.write(key, b"first")

    def steps(self, cluster: int) -> list[str]:
        return [step for number, step in self.clusters.steps if number == cluster]

    def check_moved(self, *, slots: tuple[int, ...] = SLOTS) -> None:
        assert not self.directory.directory.moves
        assert {self.directory.directory.slot_map.owners[slot] for slot in slots} == {2}
        assert self.destination.owned == set(slots)
        assert self.source.owned == set(range(SLOT_COUNT)) - set(slots)
        assert set(self.destination.keys) == {key for key in KEYS if slot_of(key) in slots}
        assert set(self.source.keys) == {key for key in KEYS if slot_of(key) not in slots}
        assert not self.source.moves
        assert not self.destination.moves

    def check_called_off(self) -> None:
        assert not self.directory.directory.moves
        assert set(self.directory.directory.slot_map.owners) == {1}
        assert self.source.owned == set(range(SLOT_COUNT))
        assert set(self.source.keys) == set(KEYS)
        assert not self.destination.keys
        assert not self.source.moves
        assert not self.destination.moves


@asynccontextmanager
async def running(world: World, options: MoverOptions = QUICK, *, term: int = TERM) -> AsyncIterator[Mover]:
    mover = Mover(world.clusters, world.directory, options)
    task = asyncio.create_task(mover.run(term))
    try:
        yield mover
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.001)


def ended(world: World) -> bool:
    return not world.directory.directory.moves


async def test_a_move_takes_its_steps_in_order() -> None:
    world = World()
    world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: ended(world))
    assert [command.kind for command in world.directory.commands] == ["plan", "begin", "decide", "finish"]
    source, destination = world.steps(1), world.steps(2)
    assert source[:3] == ["EXPORT", "FREEZE", "RELEASE"]
    assert set(source[3:]) == {"PURGE"}
    assert (destination[0], set(destination[1:-1]), destination[-1]) == ("IMPORT", {"IMPORT_CHUNK"}, "ACTIVATE")
    both = [step for _, step in world.clusters.steps]
    assert both.index("RELEASE") < both.index("ACTIVATE") < both.index("PURGE")
    world.check_moved()
    assert mover.totals.slots_moved == len(SLOTS)
    assert mover.totals.keys_copied == 20


async def test_a_key_that_was_left_behind_at_the_destination_does_not_come_back() -> None:
    """A source whose index was damaged, with a version that trusted it, purged all keys but one: now the slot comes back."""
    world = World()
    stale = next(key for number in range(100_000) if slot_of(key := b"stale-%d" % number) in SLOTS)
    world.destination.keys[stale] = (3, b"long deleted")
    world.directory.plan(*SLOTS)
    async with running(world):
        await until(lambda: ended(world))
    world.check_moved()


async def test_a_cluster_that_refuses_to_tell_its_keys_ends_the_move() -> None:
    """As one does whose index of slots is damaged. Nothing is lost, and the operator learns which replica it is."""
    world = World()

    async def refuse(cluster: ClusterNumber, request: Any) -> None:
        if cluster == 1 and isinstance(request, pb.ReadSlotsRequest):
            raise StepRefusedError("cluster c1: n2 (replica 2) cannot take part in a move")

    world.clusters.before = refuse
    world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: ended(world))
    world.check_called_off()
    assert mover.totals.called_off == 1
    assert "n2 (replica 2)" in mover.totals.why_called_off


async def test_a_chunk_that_can_never_be_taken_ends_the_move() -> None:
    """Sent again and again it would keep the move, and all others of the two clusters, from ever ending."""
    world = World()
    sent = 0

    async def refuse(cluster: ClusterNumber, request: Any) -> None:
        nonlocal sent
        if isinstance(request, pb.ChangeSlotsRequest) and request.step == pb.IMPORT_CHUNK:
            sent += 1
            raise StepImpossibleError("cluster c2: the request has 9 bytes, the most is 8; raise --request-bytes-max")

    world.clusters.before = refuse
    world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: ended(world))
    world.check_called_off()
    assert sent == 1
    assert "--request-bytes-max" in mover.totals.why_called_off


async def test_keys_keep_their_revisions_and_revisions_only_grow() -> None:
    world = World()
    before = {key: world.source.keys[key] for key in KEYS[:20]}
    world.directory.plan(*SLOTS)
    async with running(world):
        await until(lambda: ended(world))
    assert world.destination.keys == before
    assert world.destination.revision >= world.source.revision


async def test_what_is_written_while_keys_are_copied_arrives() -> None:
    world = World()
    count = 0

    async def write(cluster: ClusterNumber, request: Any) -> None:
        nonlocal count
        if cluster == 1 and isinstance(request, pb.ReadSlotsRequest) and count < 12:
            count += 1
            assert world.source.write(KEYS[count], b"later %d" % count)
            assert world.source.write(KEYS[19 - count % 3], None)

    world.clusters.before = write
    world.directory.plan(*SLOTS)
    async with running(world, MoverOptions(poll_s=0.001, freeze_below_keys=0)):
        await until(lambda: ended(world))
    assert count == 12
    gone = set(KEYS[17:20])
    assert set(world.destination.keys) == set(KEYS[:20]) - gone
    assert all(world.destination.keys[KEYS[n]][1] == b"later %d" % n for n in range(1, 13))


async def test_nothing_begins_while_the_destination_is_away() -> None:
    world = World()
    world.clusters.away = {2}
    move = world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: bool(mover.progress(move).obstacle))
        assert mover.progress(move).obstacle == "cluster 2 does not answer"
        assert world.directory.directory.moves[move].phase is Phase.PLANNED
        assert not world.clusters.steps
        world.clusters.away = set()
        await until(lambda: ended(world))
    world.check_moved()


async def test_writes_are_taken_again_when_the_destination_stays_away() -> None:
    world = World()
    world.directory.plan(*SLOTS)

    async def leave(cluster: ClusterNumber, request: Any) -> None:
        if isinstance(request, pb.ChangeSlotsRequest) and request.step == pb.FREEZE:
            assert world.source.write(KEYS[0], b"noted last")
            world.clusters.away = {2}

    world.clusters.before = leave
    async with running(world, MoverOptions(poll_s=0.001, retry_s=0.002, frozen_s_max=0.05)) as mover:
        await until(lambda: "UNFREEZE" in world.steps(1))
        await until(lambda: world.source.write(KEYS[0], b"second"))
        await until(lambda: ended(world))  # though the destination is still away
        assert mover.totals.called_off == 1
        assert "refused for 0.05 s" in mover.totals.why_called_off
    assert not world.source.moves
    assert world.source.owned == set(range(SLOT_COUNT))


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.COPYING])
async def test_a_move_can_be_called_off_until_it_is_committed(phase: Phase) -> None:
    world = World()
    move = world.directory.plan(*SLOTS)

    async def stop(_cluster: ClusterNumber, request: Any) -> None:
        now = isinstance(request, pb.OwnershipRequest) if phase is Phase.PLANNED else getattr(request, "step", 0) == pb.FREEZE
        there = world.directory.directory.moves.get(move)
        if now and there is not None and there.phase is phase:
            world.directory.apply(DecideMove(move, commit=False))

    world.clusters.before = stop
    async with running(world):
        await until(lambda: ended(world))
    world.check_called_off()


async def test_a_refused_step_calls_the_move_off() -> None:
    world = World()
    world.destination.last_move = 1 << 40  # of another admin group, say
    world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: ended(world))
    assert "has ended" in mover.totals.why_called_off
    assert world.source.owned == set(range(SLOT_COUNT))


async def test_a_cluster_that_knows_of_no_slots_keeps_nobody_waiting() -> None:
    world = World()
    world.source.managed = world.destination.managed = False
    world.directory.plan(*SLOTS)
    async with running(world) as mover:
        await until(lambda: ended(world))
    assert "never told" in mover.totals.why_called_off


async def test_a_committed_move_whose_source_does_not_know_it_waits_and_says_what_to_run() -> None:
    world = World()
    move = world.directory.plan(*SLOTS)

    async def lose(_cluster: ClusterNumber, request: Any) -> None:
        if request.step == pb.RELEASE:  # all of its members; what is left of it is a cluster of its own
            world.source.moves.clear()
            raise ClusterAwayError("gone")

    world.clusters.after = lose
    async with running(world) as mover:
        await until(lambda: "ravelctl admin reconcile" in mover.progress(move).obstacle)
    assert world.directory.directory.moves[move].phase is Phase.COMMITTED


async def _killed_after(world: World, steps: int) -> None:
    """A mover that dies after so many requests; the last one was done, and its answer lost."""
    count = 0

    async def die(_cluster: ClusterNumber, _request: Any) -> None:
        nonlocal count
        count += 1
        if count == steps:
            raise asyncio.CancelledError

    world.clusters.after = die
    mover = asyncio.create_task(Mover(world.clusters, world.directory, QUICK).run(TERM))
    await until(lambda: count >= steps or ended(world))
    mover.cancel()
    await asyncio.gather(mover, return_exceptions=True)
    world.clusters.after = None


@pytest.mark.parametrize("steps", range(1, 16))
async def test_another_mover_goes_on_where_one_died(steps: int) -> None:
    world = World()
    world.directory.plan(*SLOTS)
    await _killed_after(world, steps)
    async with running(world):
        await until(lambda: ended(world))
    world.check_moved()


async def test_what_was_copied_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.admin.copying.CHUNK_KEYS_MAX", 4)
    world = World()
    world.directory.plan(*SLOTS)
    await _killed_after(world, 5)  # EXPORT, IMPORT, three chunks
    async with running(world) as mover:
        await until(lambda: ended(world))
    world.check_moved()
    assert mover.totals.keys_copied == 20 - 12


async def test_a_key_that_went_while_no_mover_was_there_goes_at_the_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.admin.copying.CHUNK_KEYS_MAX", 4)
    world = World()
    world.directory.plan(*SLOTS)
    await _killed_after(world, 4)
    gone = sorted(world.destination.keys)[0]
    world.source.write(gone, None)
    next(iter(world.source.moves.values())).notes.clear()  # the comparison alone must find it
    async with running(world):
        await until(lambda: ended(world))
    assert set(world.destination.keys) == set(KEYS[:20]) - {gone}


async def test_a_chunk_with_an_unknown_outcome_is_read_again() -> None:
    world = World()
    world.directory.plan(*SLOTS)
    lost = 0

    async def lose(_cluster: ClusterNumber, request: Any) -> None:
        nonlocal lost
        if request.step == pb.IMPORT_CHUNK and lost < 3:
            lost += 1
            raise ClusterAwayError("the answer was lost")

    world.clusters.after = lose
    async with running(world):
        await until(lambda: ended(world))
    assert lost == 1  # it was taken, and the comparison found nothing missing
    world.check_moved()


async def test_two_movers_at_once_do_no_harm() -> None:
    world = World()
    world.directory.plan(*SLOTS)

    async def pause(_cluster: ClusterNumber, _request: Any) -> None:
        await asyncio.sleep(0)

    world.clusters.before = world.clusters.after = pause
    async with running(world), running(world):
        await until(lambda: ended(world))
    world.check_moved()


async def test_a_freeze_of_a_dead_mover_that_comes_late_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the next one compares, which knows of no freeze and may take its time."""
    monkeypatch.setattr("ravel_node.admin.copying.CHUNK_KEYS_MAX", 2)
    world = World()
    world.directory.plan(*SLOTS)
    await _killed_after(world, 4)
    late = pb.ChangeSlotsRequest(step=pb.FREEZE, move=next(iter(world.source.moves)), mover=TERM)
    told = ""

    async def deliver(_cluster: ClusterNumber, request: Any) -> None:
        nonlocal told
        if isinstance(request, pb.ChangeSlotsRequest) and request.step == pb.IMPORT_CHUNK and not told:
            with pytest.raises(StepRefusedError) as refused:
                world.source.change(late)
            told = str(refused.value)
            assert world.source.write(KEYS[0], b"nobody froze it")

    world.clusters.before = deliver
    async with running(world, term=TERM + 1):
        await until(lambda: ended(world))
    assert "was replaced" in told
    world.check_moved()


async def test_a_mover_that_was_replaced_calls_nothing_off() -> None:
    world = World()
    world.directory.plan(*SLOTS)
    await _killed_after(world, 2)
    next(iter(world.source.moves.values())).mover = TERM + 1
    async with running(world) as mover:
        move = next(iter(world.directory.directory.moves))
        await until(lambda: "was replaced" in mover.progress(move).obstacle)
        assert not mover.totals.called_off
    async with running(world, term=TERM + 1):
        await until(lambda: ended(world))
    world.check_moved()


async def test_moves_of_one_cluster_come_one_after_the_other() -> None:
    world = World(3)
    first = world.directory.plan(*SLOTS[:10])
    second = world.directory.plan(*SLOTS[10:])
    third = world.directory.plan(SLOTS[0] + 1, destination=3)
    async with running(world):
        await until(lambda: ended(world))
    assert [command.move_id for command in world.directory.commands if isinstance(command, BeginMove)] == [first, second, third]
    assert world.source.owned == set(range(SLOT_COUNT)) - set(SLOTS) - {SLOTS[0] + 1}
