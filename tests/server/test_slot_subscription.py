"""Watches of keys whose slots leave and come: everything up to where they left, a word that they did, and no hole without one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ravel_node.machine import envelope
from ravel_node.machine.ownership import Tenure
from ravel_node.machine.slots import MovedKey, SlotsCommand, Step, encode_step
from ravel_node.replica.errors import RevisionCompactedError, WrongSlotError
from ravel_node.replica.options import ReplicaOptions
from ravel_node.server.slot_subscription import Left, SlotSubscription, View, Views, Wanted
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.kv_pb2 import SlotsFrom, SlotsLeft, WatchRequest
from tests.replica.cluster import Node, cluster_of, until
from tests.replica.virtual import virtual
from tests.server.watcher import Stream, handlers, watching


def step(kind: Step, move: int = 5, **fields: Any) -> bytes:
    return envelope.slots(encode_step(SlotsCommand(kind, move, **fields)))


@virtual
async def test_a_watch_of_a_key_ends_where_its_slot_goes_and_is_told_all_before(tmp_path: Path) -> None:
    key, slot = b"a", slot_of(b"a")
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        every = tuple(range(SLOT_COUNT))
        await node.write(step(Step.OWN, 1, slots=every, map_version=1), envelope.put(key, b"1"))
        await node.write(step(Step.EXPORT, slots=(slot,)))
        kv = handlers(node)
        async with watching(kv, key=key) as asleep, watching(kv, from_revision=1) as of_all:
            await node.write(envelope.put(key, b"2"))
            ended = asyncio.create_task(asleep.through(99))
            await asyncio.sleep(0.2)
            began = asyncio.get_running_loop().time()
            await node.write(step(Step.FREEZE))
            await node.write(step(Step.RELEASE, map_version=7))
            with pytest.raises(WrongSlotError) as caught:
                await ended
            assert asyncio.get_running_loop().time() - began < 5  # it does not sleep until its next sign of life is due
            assert (caught.value.slot, caught.value.map_version) == (slot, 7)
            assert asleep.told() == [(2, key, b"2")]
            assert asleep.revision == 2  # what is written elsewhere is no business of the key any more
            # One that comes now is still told what happened here, which nobody else can tell.
            await node.write(envelope.put(b"elsewhere", b"x"))
            late = Stream(kv, WatchRequest(key=key, from_revision=1))
            with pytest.raises(WrongSlotError):
                await late.through(99)
            assert (late.told(), late.revision) == ([(1, key, b"1"), (2, key, b"2")], 2)
            for beyond in (0, 3):
                with pytest.raises(WrongSlotError):
                    await Stream(kv, WatchRequest(key=key, from_revision=beyond)).through(99)
            # Purged and imported keys are no events.
            await node.write(step(Step.PURGE, keys=(MovedKey(key, b"", 0),), last=True))
            await node.write(step(Step.IMPORT, 6, slots=(slot,), revision=50))
            await node.write(step(Step.IMPORT_CHUNK, 6, chunk=1, keys=(MovedKey(key, b"3", 40),), revision=50))
            await node.write(step(Step.ACTIVATE, 6, map_version=8, revision=50))
            await node.write(envelope.put(key, b"4"))
            for missed in (1, 3, 50):  # since it was elsewhere meanwhile
                with pytest.raises(RevisionCompactedError) as compacted:
                    await Stream(kv, WatchRequest(key=key, from_revision=missed)).next()
                assert compacted.value.first_revision == 51
            again = Stream(kv, WatchRequest(key=key, from_revision=51))
            await again.through(51)
            assert again.told() == [(51, key, b"4")]
            await again.close()
            await of_all.through(51)
            assert of_all.told() == [(1, key, b"1"), (2, key, b"2"), (3, b"elsewhere", b"x"), (51, key, b"4")]


@virtual
async def test_who_slept_while_a_slot_left_and_came_back_is_told_that_something_is_missing(tmp_path: Path) -> None:
    key, slot = b"a", slot_of(b"a")
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        every = tuple(range(SLOT_COUNT))
        await node.write(step(Step.OWN, 1, slots=every, map_version=1), envelope.put(key, b"1"))
        async with watching(handlers(node), key=key) as asleep:
            await node.write(
                step(Step.EXPORT, slots=(slot,)),
                step(Step.FREEZE),
                step(Step.RELEASE, map_version=7),
                step(Step.PURGE, keys=(MovedKey(key, b"", 0),), last=True),
                step(Step.IMPORT, 6, slots=(slot,), revision=50),
                step(Step.ACTIVATE, 6, map_version=8, revision=50),
            )
            with pytest.raises(RevisionCompactedError) as caught:
                await asleep.through(99)
            assert caught.value.first_revision == 51
            assert asleep.told() == []


EVERY = tuple(range(SLOT_COUNT))
A, B, C = b"a", b"b", b"c"
SLOT_A, SLOT_B, SLOT_C = map(slot_of, (A, B, C))


async def claimed(node: Node) -> None:
    """The cluster owns all slots; a, b and c are written at revisions 1 to 3."""
    await node.write(step(Step.OWN, 1, slots=EVERY, map_version=1), *(envelope.put(key, b"1") for key in (A, B, C)))


async def give_up(node: Node, move: int, *slots: int) -> None:
    await node.write(
        step(Step.EXPORT, move, slots=tuple(sorted(slots))), step(Step.FREEZE, move), step(Step.RELEASE, move, map_version=move)
    )
    await node.write(step(Step.PURGE, move, last=True))


async def take_over(node: Node, move: int, slot: int, revision: int) -> None:
    await node.write(
        step(Step.IMPORT, move, slots=(slot,), revision=revision), step(Step.ACTIVATE, move, map_version=move, revision=revision)
    )


def left(revision: int, *slots: int) -> SlotsLeft:
    return SlotsLeft(slots=sorted(slots), revision=revision)


def of(*slots: int, since: int = 0, came: int | None = None) -> SlotsFrom:
    return SlotsFrom(slots=sorted(slots), from_revision=since, came=came)


async def told_to_leave(stream: Stream) -> list[SlotsLeft]:
    async with asyncio.timeout(30):
        while not (found := list((await stream.next()).left)):
            pass
    return found


@virtual
async def test_only_keys_of_the_named_slots_are_told(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        for key in (A, B, C):  # a cluster that never heard of slots has them all
            await node.put(key, b"1")
        async with watching(handlers(node), slots=[of(SLOT_A, SLOT_C, since=1)], progress_ms=100) as stream:
            assert stream.last.began == [of(SLOT_A, SLOT_C, since=1, came=0)]
            await stream.through(3)
            await node.write(envelope.write([], [(A, b"2"), (B, b"2")]), envelope.put(B, b"3"), envelope.delete(C))
            await stream.through(6)
            assert stream.told() == [(1, A, b"1"), (3, C, b"1"), (4, A, b"2"), (6, C, None)]
        async with watching(handlers(node), start=B, slots=[of(SLOT_A, SLOT_C, since=1)]) as stream:
            await stream.next()
            assert [event.key for event in stream.events] == [C, C]


@virtual
async def test_each_slot_is_told_from_its_own_revision_on(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await claimed(node)
        for value in (b"2", b"3"):
            for key in (A, B, C):
                await node.put(key, value)  # revisions 4 to 9
        wanted = [of(SLOT_A, since=5), of(SLOT_B, since=9), of(SLOT_C)]
        kv = handlers(node)
        async with watching(kv, slots=wanted) as one, watching(kv, slots=wanted) as other, watching(kv, slots=[of(SLOT_C)]) as c:
            assert one.last.began == [of(SLOT_A, since=5, came=0), of(SLOT_B, since=9, came=0), of(SLOT_C, since=10, came=0)]
            await node.write(envelope.write([], [(A, b"4"), (B, b"4"), (C, b"4")]))
            for stream in (one, other, c):
                await stream.through(10)
            expected = [(7, A, b"3"), (10, A, b"4"), (10, B, b"4"), (10, C, b"4")]
            assert one.told() == other.told() == expected
            assert c.told() == [(10, C, b"4")]


@virtual
async def test_slots_that_leave_are_told_of_after_all_that_happened_to_them_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await claimed(node)
        kv = handlers(node)
        named = [of(SLOT_A, SLOT_B, SLOT_C)]
        async with watching(kv, slots=named) as stream, watching(kv, slots=[of(*EVERY)]) as of_all:
            both = asyncio.gather(told_to_leave(stream), told_to_leave(of_all))
            await asyncio.sleep(0.1)
            await node.put(A, b"2")
            await give_up(node, 5, SLOT_A, SLOT_B)
            assert list(await both) == [[left(4, SLOT_A, SLOT_B)]] * 2
            assert stream.told() == of_all.told() == [(4, A, b"2")]
            await node.put(C, b"2")
            await stream.next()
            await give_up(node, 6, SLOT_C)
            assert await told_to_leave(stream) == [left(5, SLOT_C)]
            with pytest.raises(StopAsyncIteration):
                await stream.next()
            assert stream.revision == 5
            assert await told_to_leave(of_all) == [left(5, SLOT_C)]
            await node.put(b"d", b"1")
            await of_all.through(6)
            assert of_all.told() == [(4, A, b"2"), (5, C, b"2"), (6, b"d", b"1")]


@virtual
async def test_who_comes_later_is_still_told_up_to_where_each_slot_left(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await claimed(node)
        await give_up(node, 5, SLOT_A)
        await node.put(B, b"2")
        await give_up(node, 6, SLOT_B)
        kv = handlers(node)
        async with watching(kv, slots=[of(SLOT_A, SLOT_B, SLOT_C, since=1)]) as stream:
            assert await told_to_leave(stream) == [left(3, SLOT_A), left(4, SLOT_B)]
            assert stream.told() == [(1, A, b"1"), (2, B, b"1"), (3, C, b"1"), (4, B, b"2")]
            await node.put(C, b"2")
            await stream.through(5)
            assert stream.told()[4:] == [(5, C, b"2")]
        # One that knows all of a slot that has left is told just that, and one that may have missed something is told so.
        ending = Stream(kv, WatchRequest(slots=[of(SLOT_A, since=4, came=0)]))
        assert list((await ending.next()).left) == [left(3, SLOT_A)]
        with pytest.raises(StopAsyncIteration):
            await ending.next()
        for revision in (0, 5):
            async with watching(kv, slots=[of(SLOT_A, SLOT_C, since=revision)]) as stream:
                assert list(stream.last.absent) == [SLOT_A]
                assert [list(began.slots) for began in stream.last.began] == [[SLOT_C]]
        nothing = Stream(kv, WatchRequest(slots=[of(SLOT_A, since=5)]))
        assert list((await nothing.next()).absent) == [SLOT_A]
        with pytest.raises(StopAsyncIteration):
            await nothing.next()


@virtual
async def test_slots_that_came_are_told_from_there_on_and_what_was_before_is_missed(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await claimed(node)
        await give_up(node, 5, SLOT_A)
        kv = handlers(node)
        async with watching(kv, slots=[of(SLOT_B)]) as stream:
            await take_over(node, 6, SLOT_A, 50)
            await node.write(envelope.put(A, b"2"), envelope.put(B, b"2"))
            await stream.through(52)
            assert stream.told() == [(52, B, b"2")]  # what comes is watched by whoever asks for it
        for missed in (of(SLOT_A, since=1), of(SLOT_A, since=50), of(SLOT_A, since=4, came=3), of(SLOT_A, since=90, came=0)):
            async with watching(kv, slots=[missed, of(SLOT_B, since=1)]) as stream:
                assert stream.last.missed == [of(SLOT_A, since=51, came=50)]
                await stream.through(52)
                assert stream.told() == [(2, B, b"1"), (52, B, b"2")]
        async with watching(kv, slots=[of(SLOT_A, since=51, came=50), of(SLOT_B, since=51)]) as stream:
            await stream.through(52)
            assert stream.told() == [(51, A, b"2"), (52, B, b"2")]
        async with watching(kv, slots=[of(SLOT_A, since=71, came=70)]) as stream:  # of a time that this replica may learn of
            assert list(stream.last.absent) == [SLOT_A]


@virtual
async def test_a_slot_whose_old_cluster_was_far_behind_is_found_where_it_arrived(tmp_path: Path) -> None:
    """The source let go at revision 2, when this cluster was beyond 200 and its log no longer reached back to 2."""
    options = ReplicaOptions(tick_s=0.01, heartbeat_ticks=2, election_ticks=10, log_retain_entries=20)
    async with cluster_of(tmp_path, 1, options=options) as cluster:
        node = await cluster.leader()
        await node.write(step(Step.OWN, 1, slots=tuple(sorted((SLOT_B, SLOT_C))), map_version=1))
        await node.write(step(Step.PURGE, 1, last=True))
        for number in range(200):
            await node.put(B, b"%d" % number)
        await until("the log is compacted", lambda: node.replica.feed.oldest().revision > 100)
        await take_over(node, 6, SLOT_A, 2)
        await node.write(envelope.put(B, b"x"), envelope.put(A, b"1"))
        kv = handlers(node)
        async with watching(kv, slots=[of(SLOT_A, since=3, came=2)]) as stream, watching(kv, key=A, from_revision=3) as of_key:
            for told in (stream, of_key):
                await told.through(202)
                assert told.told() == [(202, A, b"1")]


@virtual
async def test_a_slot_that_left_and_came_back_unseen_is_missed(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await claimed(node)
        async with watching(handlers(node), slots=[of(SLOT_A, SLOT_B)]) as dawdler:
            await give_up(node, 5, SLOT_A)
            await take_over(node, 6, SLOT_A, 50)
            await node.put(B, b"2")
            await dawdler.through(51)
            assert list(dawdler.missed) == [SLOT_A]
            assert dawdler.told() == [(51, B, b"2")]


@virtual
async def test_a_range_that_names_no_slots_says_when_slots_go_or_come(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        async with watching(handlers(node), progress_ms=600_000) as stream:
            versions: list[int] = []

            async def changed() -> None:
                async with asyncio.timeout(30):
                    while (version := (await stream.next()).map_version) == (versions or [0])[-1]:
                        pass
                versions.append(version)

            await claimed(node)
            await changed()
            await give_up(node, 5, SLOT_A)
            await changed()
            asleep = asyncio.create_task(changed())
            await asyncio.sleep(0.1)
            await take_over(node, 6, SLOT_A, 50)
            await asleep
            assert versions == [1, 5, 6]
            assert [key for _, key, _ in stream.told()] == [A, B, C]
        late = Stream(handlers(node), WatchRequest())
        assert (await late.next()).map_version == 6
        await late.close()


def test_a_slot_has_left_at_its_own_revision_however_far_the_watcher_is() -> None:
    """Who is behind is first told of what happened to the keys before the slot left."""
    kept, going = 3, 5
    views = Views()
    before = View(1 << kept | 1 << going, {}, 1)
    after = View(1 << kept, {going: Tenure(came=0, left=9)}, 2)
    watched = SlotSubscription([Wanted((kept, going), 1, None)], before, 4, lambda _slot: 0)
    assert watched.look(after, views, seen=4) == []
    assert watched.leave(4) == watched.leave(8) == []
    assert watched.leave(9) == [Left([going], 9)]
    assert watched.slots == 1 << kept
