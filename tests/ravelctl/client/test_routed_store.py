"""RavelClient over several fake clusters, whose slots move while it works."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from ravelctl.client import (
    CompactedError,
    Condition,
    Consistency,
    Delete,
    DeleteResult,
    InvalidArgumentError,
    KeyValue,
    NotAdminError,
    OutcomeUnknownError,
    Put,
    RavelClient,
    SlotMovingError,
    UnreachableError,
    WrongClusterError,
    WrongServerError,
    connect,
)
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1.admin_pb2 import RoutedMigration
from tests.ravelctl.client.fake_admin import QUICK, FakeWorld, fake_world, key_of_slot
from tests.ravelctl.client.fake_server import Fault, fake_cluster, scripted
from tests.ravelctl.client.patience import ends_in

EVEN, ODD = range(0, SLOT_COUNT, 2), range(1, SLOT_COUNT, 2)  # the slots of cluster 1 and of cluster 2


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world(2) as world:
        yield world


@pytest.fixture
async def client(world: FakeWorld) -> AsyncIterator[RavelClient]:
    async with world.client() as client:
        yield client


async def test_every_call_goes_to_the_owner_and_the_map_is_asked_for_once(world: FakeWorld, client: RavelClient) -> None:
    keys = [b"k%d" % i for i in range(40)]
    await asyncio.gather(*(client.put(key, b"v" + key) for key in keys))
    for key in keys:
        assert (await client.get(key) or KeyValue(b"", b"", 0)).value == b"v" + key
        assert key in world.owner(key).data
    assert not set(world.clusters[0].data) & set(world.clusters[1].data)
    assert await client.get(keys[0], consistency=Consistency.STALE) is not None
    swap = await client.compare_and_swap(keys[0], b"w", expected_revision=0)
    assert not swap.swapped
    assert await client.get_and_delete(keys[0]) is not None
    assert (await client.delete(keys[1])).found
    assert len(world.asked) == 1


async def test_a_moved_key_is_followed_and_the_map_renewed_once(world: FakeWorld, client: RavelClient) -> None:
    keys = key_of_slot(EVEN, 50)
    await asyncio.gather(*(client.put(key, b"1") for key in keys))
    world.move(EVEN, 1, 2)
    await asyncio.gather(*(client.put(key, b"2") for key in keys))
    assert all(world.clusters[1].data[key][0] == b"2" for key in keys)
    assert [request.known_version for request in world.asked] == [0, 1]


async def test_a_frozen_slot_is_waited_for(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot([4])
    await client.put(key, b"1")
    world.freeze([4], 1)
    assert await client.get(key) == KeyValue(key, b"1", 1)  # reads go on
    put = asyncio.create_task(client.put(key, b"2"))
    await asyncio.sleep(0.1)
    assert not put.done()
    world.commit([4], 2)
    world.release([4], 1)
    await asyncio.sleep(0.1)
    assert not put.done()  # the destination is not told yet: it refuses with a version that we have
    world.activate([4], 1, 2)
    await put
    assert world.clusters[1].data[key][0] == b"2"
    assert world.clusters[0].applied[b"2"] == 0
    assert world.clusters[1].applied[b"2"] == 1


async def test_an_aborted_move_lets_the_write_through(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot([4])
    world.freeze([4], 1)
    put = asyncio.create_task(client.put(key, b"2"))
    await asyncio.sleep(0.05)
    world.clusters[0].frozen = 0
    await put
    assert world.clusters[0].applied[b"2"] == 1


async def test_an_unknown_write_is_asked_again_where_it_was_and_never_elsewhere(world: FakeWorld, client: RavelClient) -> None:
    """It was done before the slot moved: the old cluster still has its answer."""
    (key,) = key_of_slot([4])
    await client.put(key, b"1")

    def lose_and_move(request: object) -> Fault:
        world.clusters[0].script = lambda request: Fault.NONE
        asyncio.get_running_loop().call_soon(world.move, [4], 1, 2)
        return Fault.LOSE_ANSWER

    world.clusters[0].script = lose_and_move
    written = await client.put(key, b"2")
    assert written.revision == 2
    assert (world.clusters[0].applied[b"2"], world.clusters[1].applied[b"2"]) == (1, 0)
    assert await client.get(key) == KeyValue(key, b"2", 2)


async def test_an_unknown_write_that_was_not_done_goes_to_the_new_owner(world: FakeWorld, client: RavelClient) -> None:
    """WRONG_CLUSTER of the cluster first asked proves that it did not happen."""
    (key,) = key_of_slot([4])
    await client.put(key, b"1")

    def break_and_move(request: object) -> Fault:
        world.clusters[0].script = lambda request: Fault.NONE
        world.move([4], 1, 2)
        return Fault.BREAK

    world.clusters[0].script = break_and_move
    await client.put(key, b"2")
    assert (world.clusters[0].applied[b"2"], world.clusters[1].applied[b"2"]) == (0, 1)


async def test_without_sessions_a_lost_write_is_unknown_and_goes_nowhere_else(world: FakeWorld) -> None:
    (key,) = key_of_slot([4])
    async with world.client(exactly_once=False) as client:
        await client.put(key, b"1")
        world.clusters[0].script = scripted([Fault.LOSE_ANSWER])
        with pytest.raises(OutcomeUnknownError):
            await client.put(key, b"2")
        world.move([4], 1, 2)
        await client.put(key, b"3")
    assert world.clusters[1].applied[b"2"] == 0


async def test_an_unknown_write_stays_unknown_while_its_cluster_is_away(world: FakeWorld) -> None:
    (key,) = key_of_slot([4])
    async with world.client(timeout_s=1.0) as client:
        await client.put(key, b"1")

        def lose_all(request: object) -> Fault:
            world.clusters[0].replicas[0].hangs = True
            world.commit([4], 2)  # by force, as if the source had been given up
            world.clusters[1].owned |= 1 << 4
            return Fault.LOSE_ANSWER

        world.clusters[0].script = lose_all
        with pytest.raises(OutcomeUnknownError):
            await client.put(key, b"2")
        assert world.clusters[1].applied[b"2"] == 0


async def test_calls_go_on_while_the_admin_is_away(world: FakeWorld, client: RavelClient) -> None:
    (one,), (two,) = key_of_slot(EVEN), key_of_slot(ODD)
    await client.put(one, b"1")
    await world.admin.replicas[0].stop()
    await client.put(one, b"2")
    await client.put(two, b"2")  # a cluster that was never asked: its address is in the map
    assert [item.key async for item in client.scan()] == sorted([one, two])


async def test_without_an_admin_and_without_a_map_the_admin_is_what_is_told_of(world: FakeWorld) -> None:
    await world.admin.replicas[0].stop()
    async with world.client() as client:
        refused = await ends_in(UnreachableError, lambda limit_s: client.put(b"k", b"v", timeout_s=limit_s))
    assert "the map of slots is not known: no daemon answered" in str(refused)


async def test_a_daemon_that_is_no_admin_is_told(world: FakeWorld) -> None:
    async with RavelClient(admin=[world.clusters[0].replicas[0].address], retry=QUICK, timeout_s=5) as client:
        with pytest.raises(NotAdminError, match="no admin server"):
            await client.get(b"k")


async def test_a_slot_that_stays_frozen_ends_in_an_error_that_says_so(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot([4])
    world.freeze([4], 1)
    refused = await ends_in(SlotMovingError, lambda limit_s: client.put(key, b"v", timeout_s=limit_s))
    assert re.search(r"gave up within [\d.]+ s: slot 4 is moving", str(refused))
    world.clusters[0].frozen = 0
    world.clusters[0].owned &= ~(1 << 4)
    gone = await ends_in(WrongClusterError, lambda limit_s: client.put(key, b"v", timeout_s=limit_s))
    assert "gave up within" in str(gone)


async def test_a_key_of_nobody_waits_for_its_first_cluster(world: FakeWorld, client: RavelClient) -> None:
    world.owners = [0] * SLOT_COUNT
    put = asyncio.create_task(client.put(b"k", b"v"))
    await asyncio.sleep(0.1)
    world.commit(EVEN, 1)
    world.commit(ODD, 2)
    await put


async def test_members_that_all_went_elsewhere_are_found_again(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot(EVEN)
    await client.put(key, b"1")
    replica = world.clusters[0].replicas[0]
    await replica.stop()
    await replica.start()  # at another port
    await client.put(key, b"2")
    assert world.clusters[0].applied[b"2"] == 1


async def test_a_daemon_of_another_cluster_at_the_address_is_not_written_to(world: FakeWorld) -> None:
    (key,) = key_of_slot(EVEN)
    first, second = world.clusters
    first.replicas[0].cluster_id = second.replicas[0].cluster_id
    first.owned = (1 << SLOT_COUNT) - 1
    async with world.client() as client:
        refused = await ends_in(WrongServerError, lambda limit_s: client.put(key, b"v", timeout_s=limit_s))
    assert f"belongs to cluster {2:032x}, and this client is for cluster {1:032x}" in str(refused)
    assert not first.data


async def test_atomic_writes_stay_in_one_cluster(world: FakeWorld, client: RavelClient) -> None:
    one, other = key_of_slot(EVEN, 2)
    (far,) = key_of_slot(ODD)
    assert (await client.write([Put(one, b"1"), Put(other, b"1")])).done
    with pytest.raises(InvalidArgumentError, match=r"c1 while .* is in c2"):
        await client.write([Put(one, b"2"), Put(far, b"2")])
    with pytest.raises(InvalidArgumentError, match=r"c2 while .* is in c1"):
        await client.write([Delete(one)], conditions=[Condition(far, 0)])
    world.move(EVEN, 1, 2)
    assert (await client.write([Put(one, b"2"), Put(far, b"2")])).done  # together by now


async def test_a_key_watch_follows_its_key(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot([4])
    async with client.watch(key=key) as changes:
        await client.put(key, b"1")
        world.freeze([4], 1)
        world.commit([4], 2)
        world.release([4], 1)
        await asyncio.sleep(0.1)
        world.activate([4], 1, 2)
        await client.put(key, b"2")
        assert [(await anext(changes)).value for _ in range(2)] == [b"1", b"2"]
    assert (await client.delete(key)) == DeleteResult(True, 3)


async def test_a_followed_key_is_told_from_where_its_old_cluster_let_go(world: FakeWorld, client: RavelClient) -> None:
    """That one goes on writing other keys, the new one has far less behind it: neither matters to the key."""
    (key,), others = key_of_slot([4]), key_of_slot([6], 1)
    async with client.watch(key=key) as changes:
        await client.put(key, b"1")
        assert (await anext(changes)).value == b"1"
        for _ in range(20):
            await client.put(others[0], b"x")
        waiting = asyncio.create_task(anext(changes))
        while changes.revision < 15:
            await asyncio.sleep(0.02)
        world.move([4], 1, 2)
        for _ in range(5):
            await client.put(others[0], b"x")
        assert (await client.put(key, b"2")).revision == 22
        assert ((await waiting).value, (await waiting).revision) == (b"2", 22)


async def test_a_watch_that_begins_after_a_move_is_not_told_a_part_for_the_whole(world: FakeWorld, client: RavelClient) -> None:
    (key,) = key_of_slot([4])
    for value in (b"1", b"2"):
        await client.put(key, value)
    world.move([4], 1, 2)
    await client.put(key, b"3")
    for revision in (1, 2):
        with pytest.raises(CompactedError) as caught:
            await client.watch(key=key, from_revision=revision).started()
        assert caught.value.first_revision == 3
    async with client.watch(key=key, from_revision=3) as changes:
        assert [(event.value, event.revision) for event in [await anext(changes)]] == [(b"3", 3)]


async def test_blocking_calls_are_routed_too(world: FakeWorld) -> None:
    def use() -> list[bytes]:
        with connect(admin=",".join(world.addresses()), retry=QUICK, timeout_s=20) as store:
            for i in range(20):
                store.put(b"k%02d" % i, b"v")
            return [item.key for item in store.scan()]

    assert await asyncio.to_thread(use) == [b"k%02d" % i for i in range(20)]


async def test_endpoints_and_admin_exclude_each_other() -> None:
    with pytest.raises(InvalidArgumentError, match="not both"):
        RavelClient(["127.0.0.1:1"], admin=["127.0.0.1:2"])
    with pytest.raises(InvalidArgumentError, match="no endpoints"):
        RavelClient()


# --- scans


async def fill(world: FakeWorld, client: RavelClient, count: int) -> list[bytes]:
    keys = [b"k%04d" % i for i in range(count)]
    await asyncio.gather(*(client.put(key, b"v") for key in keys))
    return keys


async def test_a_scan_merges_in_key_order(world: FakeWorld, client: RavelClient) -> None:
    keys = await fill(world, client, 100)
    assert [item.key async for item in client.scan(page_keys_max=7)] == keys
    assert [item.key async for item in client.scan(page_keys_max=7, limit=23)] == keys[:23]
    assert [item.key async for item in client.scan(start=keys[10], end=keys[33], page_keys_max=5)] == keys[10:33]
    assert [item.key async for item in client.scan(prefix=b"k001")] == keys[10:20]
    assert [item.value async for item in client.scan(keys_only=True, limit=3)] == [b""] * 3
    assert [item.key async for item in client.scan(prefix=b"none")] == []


@pytest.mark.parametrize("page_keys", [3, 1000])
@pytest.mark.parametrize("at", range(0, 12, 2))
async def test_a_move_in_the_middle_of_a_scan_neither_hides_nor_doubles(at: int, page_keys: int) -> None:
    """Before page number `at`, of either cluster, slots go over; a step a page, so that each state of a move is met."""
    async with fake_world(2) as world, world.client() as client:
        keys = await fill(world, client, 60)
        slots = range(0, SLOT_COUNT, 4)
        steps = [
            lambda: world.freeze(slots, 1),
            lambda: world.commit(slots, 2),
            lambda: world.release(slots, 1),
            lambda: world.activate(slots, 1, 2),
            lambda: world.purge(slots, 1),
        ]
        pages = 0

        def step() -> None:
            nonlocal pages
            pages += 1
            if pages > at and steps:
                steps.pop(0)()

        for cluster in world.clusters:
            cluster.before_page = step
        found = [item.key async for item in client.scan(page_keys_max=page_keys)]
        assert found == keys


async def test_a_slot_that_comes_to_a_cluster_is_not_looked_for_in_the_stream_that_passed_it_over() -> None:
    """A server goes on behind what it passed over: keys of a slot that it got meanwhile are not in its further pages."""
    passed_over = key_of_slot([4], prefix=b"a")[0]
    async with fake_world(2) as world, world.client() as client:
        late = key_of_slot(ODD, 4, prefix=b"b")
        await asyncio.gather(*(client.put(key, b"v") for key in (passed_over, *late)))
        first = {key: world.clusters[1].data.pop(key) for key in late[2:]}
        pages = 0

        def come() -> None:
            nonlocal pages
            pages += 1
            if pages == 2:
                world.clusters[1].data |= first
                world.move([4], 1, 2)

        world.clusters[1].before_page = come
        found = [item.key async for item in client.scan(page_keys_max=1)]
        assert passed_over in found
        assert len(found) == len(set(found))


async def test_keys_are_grouped_by_cluster(world: FakeWorld, client: RavelClient) -> None:
    await client.get(b"k")
    even, odd = key_of_slot(EVEN, 3), key_of_slot(ODD, 2)
    assert sorted(map(sorted, client.groups([*even, *odd]))) == sorted([sorted(even), sorted(odd)])
    assert client.groups([]) == []


async def test_a_scan_over_a_slot_that_nobody_shows_gives_up(world: FakeWorld, client: RavelClient) -> None:
    await fill(world, client, 10)
    world.clusters[0].owned &= ~(1 << 4)

    async def scan(limit_s: float) -> list[KeyValue]:
        return [item async for item in client.scan(timeout_s=limit_s)]

    refused = await ends_in(SlotMovingError, scan)
    assert "1 slots were not shown within" in str(refused)
    assert "the first is 4, which belongs to c1 by version 1 of the map and is not there" in str(refused)
    assert "ravelctl admin reconcile" in refused.next_step


async def test_keys_that_a_cluster_out_of_a_backup_believes_to_own_are_not_shown(world: FakeWorld, client: RavelClient) -> None:
    """It is as it was before a migration, and the destination was restored too, from before it as well."""
    (key,) = key_of_slot([4])
    await client.put(key, b"old")
    old = dict(world.clusters[0].data)
    world.move([4], 1, 2)
    await client.put(key, b"new")
    first, second = world.clusters
    first.data, first.owned = old, first.owned | 1 << 4
    assert [item.value async for item in client.scan()] == [b"new"]  # while the owner by the map shows it
    second.owned &= ~(1 << 4)

    async def scan(limit_s: float) -> list[KeyValue]:
        return [item async for item in client.scan(timeout_s=limit_s)]

    refused = await ends_in(SlotMovingError, scan)
    assert "the first is 4, which belongs to c2 by version 2 of the map" in str(refused)
    assert "c1 believes to own it" in str(refused)
    assert "ravelctl admin reconcile" in refused.next_step
    world.owners = [1] * SLOT_COUNT  # everything is the first one's, and the second one is forgotten
    world.version += 1
    first.owned = (1 << SLOT_COUNT) - 1
    assert [item.value async for item in client.scan()] == [b"old"]


async def test_a_source_that_has_not_let_go_yet_is_shown_also_if_it_owns_nothing_else(
    world: FakeWorld, client: RavelClient
) -> None:
    keys = await fill(world, client, 20)
    world.freeze(EVEN, 1)
    world.commit(EVEN, 2)
    world.migrations = [RoutedMigration(slots=EVEN, source=1, destination=2)]
    assert [item.key async for item in client.scan()] == keys
    async with world.client() as other:
        assert [item.key async for item in other.scan()] == keys
    world.release(EVEN, 1)
    world.activate(EVEN, 1, 2)
    await world.clusters[0].replicas[0].stop()
    async with world.client() as other:
        assert [item.key async for item in other.scan()] == keys  # that one is not needed any more


async def test_a_scan_with_a_cluster_away_is_an_error_and_no_part(world: FakeWorld, client: RavelClient) -> None:
    await fill(world, client, 10)
    await world.clusters[1].replicas[0].stop()
    await ends_in(UnreachableError, lambda limit_s: anext(client.scan(timeout_s=limit_s)))


async def test_a_scan_finds_a_cluster_whose_addresses_become_known_later(world: FakeWorld, client: RavelClient) -> None:
    keys = await fill(world, client, 10)
    replicas, world.clusters[1].replicas = world.clusters[1].replicas, []
    async with world.client() as other:
        with pytest.raises(UnreachableError, match="knows no address of cluster 2"):
            await anext(other.scan())
        world.clusters[1].replicas = replicas
        async with asyncio.timeout(30):
            while True:
                try:
                    found = [item.key async for item in other.scan()]
                    break
                except UnreachableError:
                    await asyncio.sleep(0.05)
    assert found == keys


async def test_one_cluster_alone_is_a_map_too() -> None:
    async with fake_world(1) as world, world.client() as client:
        keys = await fill(world, client, 20)
        assert [item.key async for item in client.scan(page_keys_max=3)] == keys


async def test_a_cluster_that_never_heard_of_slots_shows_all() -> None:
    async with fake_cluster(1) as cluster, RavelClient([cluster.replicas[0].address], retry=QUICK, timeout_s=20) as client:
        await client.put(b"k", b"v")
        assert [item.key async for item in client.scan()] == [b"k"]
