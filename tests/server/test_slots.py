"""The Slots service: steps through the log, pages of keys, and what is refused before it gets there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ravel_node.machine import envelope
from ravel_node.machine import kv as machine_kv
from ravel_node.machine.base import Database
from ravel_node.machine.ownership import founded, notes, write_ownership
from ravel_node.machine.slots import ALL_SLOTS, NO_SLOTS, bitmap, difference
from ravel_node.raft.types import ReplicaId
from ravel_node.replica import slots as replica_slots
from ravel_node.replica.errors import NotLeaderError
from ravel_node.replica.reads import ReadMode
from ravel_node.server.app import ServerOptions, build_client_server
from ravel_node.server.limits import Limits
from ravelctl.client import InvalidArgumentError, SlotsClient
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import kv_pb2, slots_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub
from ravelpb.v1.slots_pb2 import ChangeSlotsRequest, MovedKey, OwnershipRequest, ReadSlotsRequest
from ravelpb.v1.slots_pb2_grpc import SlotsStub
from tests.server.fakes import FakeHost, as_host, info_of, info_of_status, serving

KEYS = [key for number in range(40_000) if slot_of(key := b"key-%d" % number) in (7, 8)]
IN_7, IN_8 = (sorted(key for key in KEYS if slot_of(key) == slot) for slot in (7, 8))


def managed(owned: bytes = ALL_SLOTS) -> FakeHost:
    host = FakeHost()
    write_ownership(host.fake.state, founded(owned, 1))
    host.machine.open(host.fake.state)
    return host


@pytest.fixture
def host() -> FakeHost:
    return managed()


@pytest.fixture
async def slots(host: FakeHost) -> AsyncIterator[Any]:
    async with serving(host) as channel:
        for key in KEYS:
            await KVStub(channel).Put(kv_pb2.PutRequest(key=key, value=b"v"))
        yield SlotsStub(channel)


def change(step: slots_pb2.SlotsStep.ValueType, move: int = 5, **fields: Any) -> ChangeSlotsRequest:
    return ChangeSlotsRequest(step=step, move=move, **fields)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return info_of(caught.value).reason, caught.value.details() or ""


async def pages(service: Any, **fields: Any) -> list[slots_pb2.ReadSlotsResponse]:
    return [page async for page in service.ReadSlots(ReadSlotsRequest(**fields))]


async def test_ownership_is_told_after_a_read_barrier(host: FakeHost, slots: Any) -> None:
    await slots.ChangeSlots(change(slots_pb2.EXPORT, slots=[7, 8]))
    await slots.ChangeSlots(change(slots_pb2.FREEZE))
    told = await slots.Ownership(OwnershipRequest())
    assert host.fake.barriers == [ReadMode.LINEARIZABLE]
    assert (told.managed, told.owned, told.map_version, told.last_move) == (True, ALL_SLOTS, 1, 0)
    assert told.revision == len(KEYS)
    assert told.moves == [slots_pb2.SlotMove(move=5, side=slots_pb2.FROZEN, slots=[7, 8])]


async def test_a_cluster_that_was_never_told_owns_all() -> None:
    async with serving(FakeHost()) as channel:
        slots = SlotsStub(channel)
        told = await slots.Ownership(OwnershipRequest())
        assert (told.managed, told.owned, list(told.moves)) == (False, ALL_SLOTS, [])
        for step in (slots_pb2.EXPORT, slots_pb2.PURGE, slots_pb2.SETTLE):
            reason, message = await refused(slots.ChangeSlots(change(step, slots=[7])))
            assert (reason, "reconcile" in message) == (Reason.MOVE_REFUSED, True)
        await slots.ChangeSlots(change(slots_pb2.OWN, 1, slots=range(SLOT_COUNT), map_version=1))
        assert (await slots.Ownership(OwnershipRequest())).managed


async def test_keys_come_slot_by_slot_in_pages_that_fit_a_chunk(
    host: FakeHost, slots: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_slots, "PAGE_KEYS", 4)
    found = await pages(slots, slots=[7, 8])
    assert [moved.key for page in found for moved in page.keys] == IN_7 + IN_8
    assert {len(page.keys) for page in found[:-1]} == {4}
    assert [page.more for page in found] == [True] * (len(found) - 1) + [False]
    assert {page.revision for page in found} == {len(KEYS)}
    assert {moved.value for page in found for moved in page.keys} == {b"v"}
    monkeypatch.setattr(replica_slots, "MOVED_BYTES_MAX", 2 * len(IN_7[0]) + 4)
    found = await pages(slots, slots=[7, 8], keys_only=True)
    assert [moved.key for page in found for moved in page.keys] == IN_7 + IN_8
    assert {len(page.keys) for page in found} <= {1, 2, 3}
    assert {moved.value for page in found for moved in page.keys} == {b""}
    assert host.fake.barriers == []
    await pages(slots, slots=[7], linearizable=True)
    assert host.fake.barriers == [ReadMode.LINEARIZABLE]
    assert [len(page.keys) for page in await pages(slots, slots=[9])] == [0]


async def test_notes_are_read_and_settled(host: FakeHost, slots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_slots, "PAGE_KEYS", 2)
    await slots.ChangeSlots(change(slots_pb2.EXPORT, slots=[7, 8]))
    kv = host.fake
    for key in IN_7[:5]:
        await kv.propose(envelope.group([envelope.put(key, b"new")]), 1, grows=True)
    await kv.propose(envelope.group([envelope.delete(IN_8[0])]), 1, grows=False)
    found = await pages(slots, noted_for_move=5)
    assert [(moved.key, moved.revision > 0) for page in found for moved in page.keys] == sorted(
        [*((key, True) for key in IN_7[:5]), (IN_8[0], False)]
    )
    assert [moved.key for page in await pages(slots, noted_for_move=5, slots=[8]) for moved in page.keys] == [IN_8[0]]
    await slots.ChangeSlots(change(slots_pb2.SETTLE, revision=len(KEYS) + 4))
    assert {key for key, _ in notes(host.fake.state, 5)} == {IN_7[4], IN_8[0]}
    await slots.ChangeSlots(change(slots_pb2.UNFREEZE))
    assert list(notes(host.fake.state, 5)) == []
    reason, _ = await refused(anext(aiter(slots.ReadSlots(ReadSlotsRequest(noted_for_move=5)))))
    assert reason == Reason.MOVE_REFUSED


async def test_purge_deletes_some_at_a_time_and_sweeps_the_notes(host: FakeHost, slots: Any) -> None:
    await slots.ChangeSlots(change(slots_pb2.EXPORT, slots=[7, 8]))
    await host.fake.propose(envelope.group([envelope.put(IN_7[0], b"new")]), 1, grows=True)
    await slots.ChangeSlots(change(slots_pb2.FREEZE))
    reason, _ = await refused(slots.ChangeSlots(change(slots_pb2.PURGE)))
    assert reason == Reason.MOVE_REFUSED
    await slots.ChangeSlots(change(slots_pb2.RELEASE, map_version=2))
    assert [len(page.keys) for page in await pages(slots, slots=[7, 8], keys_only=True)] == [len(KEYS)]
    calls = 0
    more = True
    while more:
        more = (await slots.ChangeSlots(change(slots_pb2.PURGE, limit=4))).more
        calls += 1
    assert calls == -(-len(KEYS) // 4)
    assert host.fake.state.databases[Database.KV] == {}
    assert not (await slots.ChangeSlots(change(slots_pb2.PURGE))).more
    assert set(host.fake.state.databases[Database.OWNERSHIP]) == {b"o", b"t\0\7", b"t\0\x08"}
    reason, _ = await refused(anext(aiter(slots.ReadSlots(ReadSlotsRequest(slots=[7])))))
    assert reason == Reason.MOVE_REFUSED


@pytest.mark.parametrize("slots_at_once", [1, 2, 64])
async def test_a_slot_is_verified_before_its_keys_are_told(
    host: FakeHost, slots: Any, monkeypatch: pytest.MonkeyPatch, slots_at_once: int
) -> None:
    monkeypatch.setattr(replica_slots, "PAGE_KEYS", 5)
    host.fake.slots_at_once = slots_at_once
    found = await pages(slots, slots=[5, 7, 8, 9])
    assert [moved.key for page in found for moved in page.keys] == IN_7 + IN_8
    assert [page.more for page in found] == [True] * (len(found) - 1) + [False]
    assert host.fake.verified == [5, 7, 8, 9], "each once"
    host.fake.damaged_slots = {8}
    told: list[bytes] = []

    async def read() -> None:
        async for page in slots.ReadSlots(ReadSlotsRequest(slots=[5, 7, 8, 9])):
            told.extend(moved.key for moved in page.keys)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert info_of(caught.value).reason == Reason.MOVE_REFUSED
    assert "n1 (replica 1)" in (caught.value.details() or "")
    assert told == (IN_7 if slots_at_once < 3 else []), "no key of a slot that was not verified"


async def test_notes_are_records_of_their_own_and_need_no_index(host: FakeHost, slots: Any) -> None:
    await slots.ChangeSlots(change(slots_pb2.EXPORT, slots=[7]))
    await host.fake.propose(envelope.group([envelope.put(IN_7[0], b"new")]), 1, grows=True)
    host.fake.damaged_slots = {7}
    assert [moved.key for page in await pages(slots, noted_for_move=5, slots=[7]) for moved in page.keys] == [IN_7[0]]
    assert host.fake.verified == []


@pytest.mark.parametrize("step", [slots_pb2.PURGE, slots_pb2.DROP])
async def test_a_damaged_index_does_not_say_that_all_keys_are_deleted(step: slots_pb2.SlotsStep.ValueType) -> None:
    host = managed(ALL_SLOTS if step == slots_pb2.PURGE else NO_SLOTS)
    async with serving(host) as channel:
        slots = SlotsStub(channel)
        if step == slots_pb2.PURGE:
            for key in KEYS:
                await KVStub(channel).Put(kv_pb2.PutRequest(key=key, value=b"v"))
            for before in (slots_pb2.EXPORT, slots_pb2.FREEZE, slots_pb2.RELEASE):
                await slots.ChangeSlots(change(before, slots=[7, 8] if before == slots_pb2.EXPORT else [], map_version=4))
        else:
            await slots.ChangeSlots(change(slots_pb2.IMPORT, slots=[7, 8]))
            keys = [MovedKey(key=key, value=b"v", revision=1) for key in KEYS]
            await slots.ChangeSlots(change(slots_pb2.IMPORT_CHUNK, chunk=1, keys=keys, revision=80))
        host.fake.damaged_slots = {8}
        assert (await slots.ChangeSlots(change(step, limit=len(KEYS) - 1))).more, "what it names may go"
        assert host.fake.verified == []
        reason, _ = await refused(slots.ChangeSlots(change(step)))
        assert reason == Reason.MOVE_REFUSED
        assert [move.move for move in (await slots.Ownership(OwnershipRequest())).moves] == [5], "the move is not over"
        host.fake.damaged_slots = set()  # another replica leads
        assert not (await slots.ChangeSlots(change(step))).more
        assert host.fake.verified[-2:] == [7, 8]
        assert host.fake.state.databases[Database.KV] == {}
        assert list((await slots.Ownership(OwnershipRequest())).moves) == []


async def test_an_import_and_its_end() -> None:
    host = managed(NO_SLOTS)
    async with serving(host) as channel:
        slots = SlotsStub(channel)
        begun = await slots.ChangeSlots(change(slots_pb2.IMPORT, slots=[7, 8], revision=70))
        assert (begun.next_chunk, begun.revision) == (1, 70)
        keys = [MovedKey(key=key, value=b"v", revision=9) for key in KEYS]
        taken = await slots.ChangeSlots(change(slots_pb2.IMPORT_CHUNK, chunk=1, keys=keys, revision=80))
        assert (taken.next_chunk, taken.revision) == (2, 80)
        reason, message = await refused(slots.ChangeSlots(change(slots_pb2.IMPORT_CHUNK, chunk=1, keys=keys)))
        assert (reason, "takes chunk 2 next" in message) == (Reason.MOVE_REFUSED, True)
        assert [move.next_chunk for move in (await slots.Ownership(OwnershipRequest())).moves] == [2]
        assert [len(page.keys) for page in await pages(slots, slots=[7, 8])] == [len(KEYS)]
        assert (await slots.ChangeSlots(change(slots_pb2.DROP, limit=len(KEYS) - 1))).more
        assert not (await slots.ChangeSlots(change(slots_pb2.DROP))).more
        assert host.fake.state.databases[Database.KV] == {}
        assert (await slots.Ownership(OwnershipRequest())).last_move == 5
        assert not (await slots.ChangeSlots(change(slots_pb2.DROP, 6))).more
        assert (await slots.Ownership(OwnershipRequest())).last_move == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"step": 0},
        {"step": 99},
        {"move": 1 << 63},
        {"slots": [8, 7]},
        {"slots": [7, 7]},
        {"slots": [SLOT_COUNT]},
        {"step": slots_pb2.PURGE, "keys": [MovedKey(key=b"k")]},
        {"step": slots_pb2.IMPORT_CHUNK, "keys": [MovedKey(key=b"k")] * 1_025},
        {"step": slots_pb2.IMPORT_CHUNK, "keys": [MovedKey(key=b"k", value=bytes(600_000))] * 2},
    ],
)
async def test_what_breaks_a_bound_never_reaches_the_log(fields: dict[str, Any]) -> None:
    host = managed()
    async with serving(host) as channel:
        request = ChangeSlotsRequest(**({"step": slots_pb2.EXPORT, "move": 5} | fields))
        reason, _ = await refused(SlotsStub(channel).ChangeSlots(request))
    assert reason == Reason.INVALID_ARGUMENT
    assert host.fake.proposals == []


async def test_a_chunk_that_is_larger_than_what_this_server_reads_is_refused_with_the_setting_to_raise() -> None:
    """The destination of a move may have a smaller limit than the source, which holds the value."""
    server = build_client_server(
        as_host(managed(NO_SLOTS)), ServerOptions(listen="127.0.0.1:0", limits=Limits(request_bytes_max=8 << 10)), print
    )
    await server.start()
    try:
        async with SlotsClient([f"127.0.0.1:{server.port}"], timeout_s=30.0) as client:
            await client.change(change(slots_pb2.IMPORT, slots=[7]))
            chunk = change(slots_pb2.IMPORT_CHUNK, chunk=1, keys=[MovedKey(key=IN_7[0], value=bytes(2 << 20), revision=1)])
            with pytest.raises(InvalidArgumentError, match=r"2097\d\d\d bytes.*--request-bytes-max") as caught:
                await client.change(chunk)
            assert caught.value.reason == Reason.REQUEST_TOO_LARGE
    finally:
        await server.stop(0.0)


async def test_only_the_leader_answers(host: FakeHost, slots: Any) -> None:
    host.fake.barrier_failure = NotLeaderError(ReplicaId(2), "127.0.0.1:7002")
    proposals = len(host.fake.proposals)
    for call in (
        slots.Ownership(OwnershipRequest()),
        slots.ChangeSlots(change(slots_pb2.FREEZE)),
        anext(aiter(slots.ReadSlots(ReadSlotsRequest(slots=[7])))),
    ):
        reason, _ = await refused(call)
        assert reason == Reason.NOT_LEADER
    assert len(host.fake.proposals) == proposals


# --- keys of slots that are not here


async def moved_away(slots: Any) -> None:
    """Slot 7 goes, slot 8 stays."""
    for step in (slots_pb2.EXPORT, slots_pb2.FREEZE, slots_pb2.RELEASE):
        await slots.ChangeSlots(change(step, slots=[7] if step == slots_pb2.EXPORT else [], map_version=4))


@pytest.mark.parametrize("consistency", [kv_pb2.LINEARIZABLE, kv_pb2.QUORUM, kv_pb2.STALE])
async def test_gets_of_a_slot_that_has_gone_are_refused_and_frozen_ones_are_served(
    host: FakeHost, consistency: kv_pb2.Consistency.ValueType
) -> None:
    async with serving(host) as channel:
        kv, slots = KVStub(channel), SlotsStub(channel)
        for key in (IN_7[0], IN_8[0]):
            await kv.Put(kv_pb2.PutRequest(key=key, value=b"v"))
        await slots.ChangeSlots(change(slots_pb2.EXPORT, slots=[7]))
        await slots.ChangeSlots(change(slots_pb2.FREEZE))
        mine, other = (kv_pb2.GetRequest(key=key, consistency=consistency) for key in (IN_8[0], IN_7[0]))
        assert (await kv.Get(other)).found
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await kv.Put(kv_pb2.PutRequest(key=IN_7[0], value=b"w"))
        assert info_of(caught.value).reason == Reason.SLOT_MOVING
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await slots.ChangeSlots(change(slots_pb2.RELEASE, map_version=4))
        for call in (kv.Get(other), kv.Put(kv_pb2.PutRequest(key=IN_7[0], value=b"w"))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            info = info_of(caught.value)
            assert (info.reason, dict(info.metadata)) == (Reason.WRONG_CLUSTER, {"map_version": "4", "slot": "7"})
        assert (await kv.Get(mine)).value == b"v"
        batch = [kv_pb2.Command(get=other), kv_pb2.Command(get=mine), kv_pb2.Command(put=kv_pb2.PutRequest(key=IN_7[1]))]
        answer = await anext(aiter(kv.Session(iter([kv_pb2.SessionRequest(id=1, commands=batch)]))))
        reasons = [info_of_status(result.error).reason if result.HasField("error") else "" for result in answer.results]
        assert reasons == [Reason.WRONG_CLUSTER, "", Reason.WRONG_CLUSTER]


async def test_scans_pass_over_keys_that_are_not_here_and_tell_what_they_cover(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(host) as channel:
        kv, slots = KVStub(channel), SlotsStub(channel)
        for key in KEYS:
            await kv.Put(kv_pb2.PutRequest(key=key, value=b"v"))
        assert [page.slots async for page in kv.Scan(kv_pb2.ScanRequest())] == [ALL_SLOTS]
        await moved_away(slots)
        monkeypatch.setattr(machine_kv, "HIDDEN_KEYS_MAX", 1)
        found = [page async for page in kv.Scan(kv_pb2.ScanRequest(page_keys_max=2))]
        assert [item.key for page in found for item in page.items] == IN_8
        assert {page.slots for page in found} == {difference(ALL_SLOTS, bitmap((7,)))}
        assert [page.more for page in found] == [True] * (len(found) - 1) + [False]
        assert any(not page.items for page in found)
    async with serving(FakeHost()) as channel:
        assert [page.slots async for page in KVStub(channel).Scan(kv_pb2.ScanRequest())] == [b""]
