"""A watch over several fake clusters whose slots move while it runs: every change once, those of a key in order, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from ravelctl.client import (
    ClosedError,
    CompactedError,
    InvalidArgumentError,
    RavelClient,
    SlotMovingError,
    UnreachableError,
    Watch,
    WatchEvent,
    WrongClusterError,
    WrongServerError,
    connect,
)
from ravelctl.client.routing import merged_watch
from ravelctl.client.session.position import read_position
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.kv_pb2 import KeyEvent
from tests.ravelctl.client.fake_admin import QUICK, FakeWorld, fake_world, key_of_slot

EVEN, ODD = range(0, SLOT_COUNT, 2), range(1, SLOT_COUNT, 2)  # the slots of cluster 1 and of cluster 2
KEYS = [b"k%d" % number for number in range(40)]
SLOT = slot_of(KEYS[0])


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world(3) as world:
        every = [slot for slot in range(SLOT_COUNT) if world.owners[slot] == 3]
        world.move(every, 3, 1)  # the third cluster is a new one
        for slot, owner in enumerate(world.owners):
            if owner != 1 + slot % 2:
                world.move([slot], owner, 1 + slot % 2)
        for cluster in world.clusters:
            cluster.tenures.clear()
        world.owners = [1 + slot % 2 for slot in range(SLOT_COUNT)]
        yield world


@pytest.fixture
async def client(world: FakeWorld) -> AsyncIterator[RavelClient]:
    async with world.client() as client:
        yield client


async def take(watch: Watch, count: int) -> list[WatchEvent]:
    async with asyncio.timeout(60):
        return [await anext(watch) for _ in range(count)]


async def ends_in(kind: type[Exception], watch: Watch) -> str:
    async def read() -> None:
        async for _ in watch:
            pass

    async with asyncio.timeout(60):
        with pytest.raises(kind) as raised:
            await read()
    return str(raised.value)


def by_key(events: list[WatchEvent]) -> dict[bytes, list[tuple[int, bytes | None]]]:
    found: dict[bytes, list[tuple[int, bytes | None]]] = {}
    for event in events:
        found.setdefault(event.key, []).append((event.revision, event.value))
    return found


def made(world: FakeWorld) -> dict[bytes, list[tuple[int, bytes | None]]]:
    """What happened to each key, by the histories of all clusters."""
    found: dict[bytes, list[tuple[int, bytes | None]]] = {}
    for cluster in world.clusters:
        for event in (event for revision in cluster.history for event in revision):
            found.setdefault(event.key, []).append((event.revision, event.value if event.kind == KeyEvent.PUT else None))
    return {key: sorted(changes) for key, changes in found.items()}


async def write_all(client: RavelClient, value: bytes) -> None:
    await asyncio.gather(*(client.put(key, value) for key in KEYS))


async def test_a_prefix_is_watched_in_all_clusters(world: FakeWorld, client: RavelClient) -> None:
    async with client.watch(prefix=b"k") as watch:
        await write_all(client, b"1")
        await client.put(b"other", b"x")
        await client.delete(KEYS[3])
        events = await take(watch, len(KEYS) + 1)
    assert {event.key for event in events} == set(KEYS)
    assert [event.value for event in events if event.key == KEYS[3]] == [b"1", None]
    assert by_key(events) == {key: changes for key, changes in made(world).items() if key in KEYS}
    assert {replica.calls["Watch"] for cluster in world.clusters for replica in cluster.replicas} == {1, 0}


async def test_a_watch_that_began_while_one_cluster_owned_everything_loses_nothing_in_a_rebalance(world: FakeWorld) -> None:
    world.move(ODD, 2, 1)
    async with world.client() as client, client.watch() as watch:
        await write_all(client, b"1")
        world.move(ODD, 1, 2)
        world.move(range(0, SLOT_COUNT, 4), 1, 3)  # a cluster that had none
        await write_all(client, b"2")
        world.move(ODD, 2, 3)  # cluster 2 is emptied
        await write_all(client, b"3")
        events = await take(watch, 3 * len(KEYS))
        assert by_key(events) == made(world)
        assert watch.revision == 0
        assert {len(changes) for changes in by_key(events).values()} == {3}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_moves_every_change_comes_once_and_in_order(world: FakeWorld, client: RavelClient, seed: int) -> None:
    rng = Random(seed)
    acknowledged: list[tuple[bytes, int]] = []
    stopping: list[bool] = []

    async def write(keys: list[bytes]) -> None:
        for number in range(60):
            key = rng.choice(keys)
            if rng.random() < 0.8:
                acknowledged.append((key, (await client.put(key, b"%d" % number)).revision))
            elif (deleted := await client.delete(key)).found:
                acknowledged.append((key, deleted.revision))

    async def move() -> None:
        while not stopping:
            source, destination = rng.sample([1, 2, 3], 2)
            owned = [slot for slot in {slot_of(key) for key in KEYS} if world.owners[slot] == source]
            slots = rng.sample(owned, rng.randint(0, len(owned)))
            if slots:
                world.freeze(slots, source)
                await asyncio.sleep(rng.choice([0, 0.01]))
                world.commit(slots, destination)
                await asyncio.sleep(rng.choice([0, 0.01]))
                world.release(slots, source)
                await asyncio.sleep(rng.choice([0, 0.02]))
                world.activate(slots, source, destination)
                world.purge(slots, source)
            # A slot that leaves and is back before the watch learns of it is another case.
            while not stopping and not set(slots) <= world.watched_slots(destination):
                await asyncio.sleep(0.01)

    async def disturb() -> None:
        while not stopping:
            for cluster in world.clusters:
                cluster.replicas[0].watches_break_after.append(rng.randint(0, 5))
            await asyncio.sleep(0.05)

    events: list[WatchEvent] = []

    async def read(watch: Watch) -> None:
        ended: set[bytes] = set()
        async for event in watch:
            events.append(event)
            if event.value == b"end":
                ended.add(event.key)
                if ended == set(KEYS):
                    return

    async with client.watch(prefix=b"k") as watch, asyncio.timeout(120):
        others = [asyncio.create_task(move()), asyncio.create_task(disturb())]
        reading = asyncio.create_task(read(watch))
        await asyncio.gather(*(write(KEYS[part::4]) for part in range(4)))
        stopping.append(True)
        await asyncio.gather(*others)
        world.settle()
        await write_all(client, b"end")
        await reading
    assert by_key(events) == made(world)
    assert {(event.key, event.revision) for event in events} >= set(acknowledged)
    assert len(acknowledged) > 150


async def test_a_watch_resumes_at_its_position_whatever_moved_meanwhile(world: FakeWorld, client: RavelClient) -> None:
    rng = Random(5)
    events: list[WatchEvent] = []
    moved: set[int] = set()  # by the last move: what is back before the watch resumes is another case
    async with client.watch(prefix=b"k") as watch:
        position = watch.position
    for number in range(12):
        for key in KEYS:
            await client.put(key, b"%d" % number)
        source, destination = rng.sample([1, 2, 3], 2)
        slots = [slot for slot in {slot_of(key) for key in KEYS} if world.owners[slot] == source and rng.random() < 0.4]
        slots = [slot for slot in slots if slot not in moved]
        moved = set(slots)
        if number % 2:
            async with client.watch(prefix=b"k", after=position) as watch:
                events += await take(watch, rng.randint(1, 2 * len(KEYS) - 1))
                while len(events) < len(KEYS) * number:
                    events += await take(watch, 1)
                taken = await take(watch, 1)  # the one before it is told for good: another one was asked for
                position = watch.position
                del taken
        world.move(slots, source, destination)
    async with client.watch(prefix=b"k", after=position) as watch:
        while len(events) < len(KEYS) * 12:
            events += await take(watch, 1)
    assert by_key(events) == made(world)


def first_revisions(position: str) -> list[int]:
    return [part.from_revision for cluster in read_position(position).clusters for part in cluster.slots]


async def test_a_position_moves_on_while_nothing_happens_to_what_is_watched(world: FakeWorld, client: RavelClient) -> None:
    async with client.watch(prefix=b"quiet/") as watch:
        began = watch.position
        waiting = asyncio.create_task(anext(watch))
        await write_all(client, b"1")
        async with asyncio.timeout(30):
            while min(first_revisions(position := watch.position)) < 2:
                await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    for cluster in world.clusters:  # what came before the position is not needed any more
        cluster.replicas[0].first_revision = 2
    async with client.watch(prefix=b"quiet/", after=position) as watch:
        await client.put(b"quiet/1", b"1")
        assert (await take(watch, 1))[0].key == b"quiet/1"
    with pytest.raises(CompactedError):
        await client.watch(prefix=b"quiet/", after=began).started()


async def test_a_destination_that_is_told_later_is_waited_for(world: FakeWorld, client: RavelClient) -> None:
    async with client.watch() as watch:
        await client.put(KEYS[0], b"1")
        source = world.owners[SLOT]
        world.freeze([SLOT], source)
        world.commit([SLOT], 3)
        world.release([SLOT], source)
        waiting = asyncio.create_task(take(watch, 2))
        others = [key for key in KEYS if slot_of(key) != SLOT]
        await client.put(others[0], b"1")  # the rest goes on
        await asyncio.sleep(0.2)
        assert not waiting.done() or len(waiting.result()) == 2
        world.activate([SLOT], source, 3)
        await client.put(KEYS[0], b"2")
        assert {event.key for event in await waiting} == {KEYS[0], others[0]}
        assert [event.value for event in await take(watch, 1)] == [b"2"]


async def test_a_slot_that_has_moved_on_already_is_found_where_it_was_meanwhile(world: FakeWorld, client: RavelClient) -> None:
    """The watch learns of the first move when the slot is back where it came from, with a change on the way."""
    source = world.owners[SLOT]
    other = 3 - source
    async with client.watch() as watch:
        await client.put(KEYS[0], b"1")
        assert (await take(watch, 1))[0].value == b"1"
        world.clusters[source - 1].replicas[0].hangs = True  # no new stream begins there
        position = watch.position
    for value, start, end in ((b"2", source, 3), (b"3", 3, other)):
        world.move([SLOT], start, end)
        world.clusters[end - 1].revision += 1
        world.clusters[end - 1].history.append([KeyEvent(key=KEYS[0], value=value, revision=world.clusters[end - 1].revision)])
    world.clusters[source - 1].replicas[0].hangs = False
    async with client.watch(after=position) as watch:
        events = [event.value for event in await take(watch, 3)]
    assert events == [b"1", b"2", b"3"]


async def test_slots_whose_last_owner_was_lost_end_the_watch(world: FakeWorld, client: RavelClient) -> None:
    source = world.owners[SLOT]
    async with client.watch() as watch:
        await client.put(KEYS[0], b"1")
        await take(watch, 1)
        world.move([SLOT], source, 3)
        # Cluster 3 was restored: its slots came by nobody's release.
        world.clusters[2].revision += 1000
        world.clusters[2].history += [[]] * 1000
        world.clusters[2].tenures[SLOT] = (world.clusters[2].revision, 0)
        said = await ends_in(CompactedError, watch)
    assert f"slot {SLOT} left c{source} at revision" in said
    assert "restored or lost" in said


async def test_a_slot_that_left_and_came_back_unseen_ends_the_watch(world: FakeWorld, client: RavelClient) -> None:
    source = world.owners[SLOT]
    async with client.watch() as watch:
        await client.put(KEYS[0], b"1")
        await take(watch, 1)
        world.move([SLOT], source, 3)
        world.clusters[2].revision += 5
        world.clusters[2].history += [[]] * 5
        world.move([SLOT], 3, source)
        assert f"slot {SLOT} came to c{source}" in await ends_in(CompactedError, watch)


async def test_a_cluster_that_was_replaced_ends_the_watch_although_the_old_one_goes_on(
    world: FakeWorld, client: RavelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_watch, "MAP_EVERY_S", 0.2)
    async with client.watch() as watch:
        world.ids[1] = "f" * 32
        assert "c1 (cluster " in (said := await ends_in(CompactedError, watch))
        assert "replaced or removed" in said
        assert "read the keys again" in said
        assert "replaced or removed" in await ends_in(CompactedError, watch)  # it stays so
        position = watch.position
    world.version += 1
    async with world.client() as later:
        assert "replaced or removed" in await ends_in(CompactedError, later.watch(after=position))


async def test_a_slot_that_nobody_takes_up_ends_the_watch_and_names_both_clusters(
    world: FakeWorld, client: RavelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_watch, "MOVED_S", 1.0)
    source = world.owners[SLOT]
    async with client.watch() as watch:
        world.freeze([SLOT], source)
        world.commit([SLOT], 3)
        world.release([SLOT], source)
        said = await ends_in(SlotMovingError, watch)
        assert f"slot {SLOT} (one of 1) has left c{source} at revision" in said
        assert "and c3, which owns it by version" in said
        assert "ravelctl admin reconcile" in said
        world.activate([SLOT], source, 3)
        await client.put(KEYS[0], b"late")
        assert (await take(watch, 1))[0].value == b"late"  # a caller that tries again gets the rest


async def test_a_source_that_stays_away_ends_the_watch(
    world: FakeWorld, client: RavelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_watch, "MOVED_S", 1.0)
    async with client.watch() as watch:
        await world.clusters[0].replicas[0].stop()
        waiting = asyncio.create_task(ends_in(UnreachableError, watch))
        await asyncio.sleep(1.5)
        assert not waiting.done()  # while its slots are its own, an outage is only an outage
        world.move(EVEN, 1, 2)
        said = await waiting
    assert "belongs to c2" in said
    assert "c1, which knows what happened before, has not answered" in said


async def test_an_old_map_does_not_keep_a_watch_from_beginning(world: FakeWorld, client: RavelClient) -> None:
    await client.get(KEYS[0])
    world.move(EVEN, 1, 3)
    async with client.watch() as watch:
        await write_all(client, b"1")
        assert by_key(await take(watch, len(KEYS))) == made(world)


async def test_a_revision_counts_in_the_cluster_that_owns_a_slot_now(world: FakeWorld, client: RavelClient) -> None:
    await write_all(client, b"1")
    async with client.watch(from_revision=1) as watch:
        assert by_key(await take(watch, len(KEYS))) == made(world)
    world.move([SLOT], world.owners[SLOT], 3)
    async with world.client() as other:  # which does not know where the slot was before
        with pytest.raises(CompactedError) as raised:
            await other.watch(from_revision=1).started()
    assert raised.value.first_revision > 1


async def test_a_watch_that_cannot_begin_says_why(world: FakeWorld) -> None:
    await world.clusters[1].replicas[0].stop()
    async with world.client(timeout_s=1) as client:
        with pytest.raises(UnreachableError):
            await client.watch().started()
        world.owners = [0] * SLOT_COUNT
        world.version += 1
        with pytest.raises(UnreachableError, match="no cluster owns slot 0"):
            async with world.client(timeout_s=1) as other:
                await other.watch().started()


@pytest.mark.parametrize("text", ["", "12", "w1.", "w1.AAAA", "w1.eJwDAAAAAAE"])
async def test_what_is_no_position_is_refused(client: RavelClient, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no position of a watch"):
        client.watch(after=text)


async def test_positions_of_other_watches_are_refused(world: FakeWorld, client: RavelClient) -> None:
    async with client.watch(key=KEYS[0]) as of_key, client.watch() as of_all:
        with pytest.raises(InvalidArgumentError, match="another watch"):
            client.watch(after=of_key.position)
        alone = RavelClient([world.clusters[0].replicas[0].address], retry=QUICK)
        with pytest.raises(InvalidArgumentError, match="several clusters"):
            alone.watch(after=of_all.position)
        with pytest.raises(InvalidArgumentError, match="exclude each other"):
            client.watch(after=of_all.position, from_revision=1)
        async with client.watch(key=KEYS[0], after=of_all.position) as part:
            await client.put(KEYS[0], b"1")
            assert (await take(part, 1))[0].value == b"1"
            assert part.revision == 0 or part.revision > 0


async def test_blocking_watches_have_positions(world: FakeWorld) -> None:
    def use() -> list[bytes | None]:
        with connect(admin=",".join(world.addresses()), retry=QUICK, timeout_s=20) as store:
            with store.watch(prefix=b"k") as watch:
                position = watch.position
            store.put(b"k1", b"1")
            with store.watch(prefix=b"k", after=position) as watch:
                return [next(watch).value]

    assert await asyncio.to_thread(use) == [b"1"]


async def test_cancelling_ends_only_the_wait(world: FakeWorld, client: RavelClient) -> None:
    async with client.watch() as watch:
        for number in range(5):
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0.02 * number)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await write_all(client, b"1")
        assert by_key(await take(watch, len(KEYS))) == made(world)


@pytest.mark.parametrize("whole", [False, True], ids=["watch", "client"])
async def test_closing_ends_who_waits(world: FakeWorld, whole: bool) -> None:
    client = world.client()
    watch = client.watch()
    await watch.started()
    waiting = asyncio.create_task(anext(watch))
    await asyncio.sleep(0.05)
    if whole:
        await client.close()
    else:
        watch.close()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await anext(watch)
    await client.close()


# --- watches of one cluster alone


@pytest.mark.parametrize("change", ["leave", "come"])
async def test_a_watch_of_one_cluster_ends_when_its_slots_move(world: FakeWorld, client: RavelClient, change: str) -> None:
    (key,) = key_of_slot(EVEN)
    moves: dict[str, Callable[[], None]] = {
        "leave": lambda: world.move(range(0, SLOT_COUNT, 4), 1, 2),
        "come": lambda: world.move(range(1, SLOT_COUNT, 4), 2, 1),
    }
    world.clusters[0].map_version = world.version
    async with RavelClient([world.clusters[0].replicas[0].address], retry=QUICK) as alone, alone.watch() as watch:
        await client.put(key, b"1")
        assert (await take(watch, 1))[0].value == b"1"
        position = watch.position
        moves[change]()
        world.clusters[0].map_version = world.version
        assert "slots of this cluster have moved" in await ends_in(WrongClusterError, watch)
        assert "have moved" in await ends_in(WrongClusterError, watch)
        assert "have moved" in await ends_in(WrongClusterError, alone.watch(after=position))


async def test_the_position_of_another_cluster_is_refused(world: FakeWorld) -> None:
    async with (
        RavelClient([world.clusters[0].replicas[0].address], retry=QUICK) as one,
        RavelClient([world.clusters[1].replicas[0].address], retry=QUICK) as other,
        one.watch() as watch,
    ):
        with pytest.raises(WrongServerError, match="position"):
            await other.watch(after=watch.position).started()
