"""Slots moved by hand between two real clusters, step by step, while somebody writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from ravelctl.client import RavelClient, RefusedError, SlotsClient, WrongClusterError
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import slots_pb2
from ravelpb.v1.slots_pb2 import ChangeSlotsRequest, ReadSlotsResponse
from tests.e2e.cluster import running_cluster, until

pytestmark = pytest.mark.e2e

MOVE = 65_536
SLOTS = tuple(range(0, SLOT_COUNT, 2))
KEYS = [b"key/%03d" % number for number in range(400)]


class Mover:
    """The hand that moves the slots."""

    def __init__(self, source: SlotsClient, destination: SlotsClient) -> None:
        self.source = source
        self.destination = destination
        self.chunk = 1

    async def step(
        self, cluster: SlotsClient, step: slots_pb2.SlotsStep.ValueType, **fields: object
    ) -> slots_pb2.ChangeSlotsResponse:
        return await cluster.change(ChangeSlotsRequest(step=step, move=MOVE, **fields), timeout_s=60)  # type: ignore[arg-type]

    async def copy(self, pages: AsyncGenerator[ReadSlotsResponse, None]) -> tuple[int, int]:
        """Keys copied, and the revision up to which all has been seen."""
        copied = seen = 0
        async with aclosing(pages):
            async for page in pages:
                seen = seen or page.revision
                copied += len(page.keys)
                if page.keys:
                    answer = await self.step(
                        self.destination, slots_pb2.IMPORT_CHUNK, chunk=self.chunk, keys=page.keys, revision=page.revision
                    )
                    self.chunk = answer.next_chunk
        return copied, seen

    async def copy_noted(self) -> int:
        copied, seen = await self.copy(self.source.read(noted_for_move=MOVE, linearizable=True))
        await self.step(self.source, slots_pb2.SETTLE, revision=seen)
        return copied


async def test_slots_move_under_writes_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        running_cluster(tmp_path / "a", ["a1"]) as one,
        running_cluster(tmp_path / "b", ["b1"]) as two,
        one.client(timeout_s=60) as source,
        two.client(timeout_s=60) as destination,
        SlotsClient(one.endpoints, timeout_s=60) as source_slots,
        SlotsClient(two.endpoints, timeout_s=60) as destination_slots,
    ):
        assert not (await source_slots.ownership()).managed
        await asyncio.gather(*(source.put(key, b"0") for key in KEYS))
        for cluster, slots in ((source_slots, range(SLOT_COUNT)), (destination_slots, ())):
            await cluster.change(ChangeSlotsRequest(step=slots_pb2.OWN, move=1, slots=slots, map_version=1))
        with pytest.raises(WrongClusterError):
            await destination.put(KEYS[0], b"x")

        mover = Mover(source_slots, destination_slots)
        await mover.step(source_slots, slots_pb2.EXPORT, slots=SLOTS)
        writer = Writer(source)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(writer.run())
            begun = await source_slots.ownership()
            await mover.step(destination_slots, slots_pb2.IMPORT, slots=SLOTS, revision=begun.revision)
            first, _ = await mover.copy(source_slots.read(SLOTS))
            assert first == sum(slot_of(key) in SLOTS for key in KEYS)
            await until("a write to a slot that moves", writer.has_written, 60)
            assert await mover.copy_noted() > 0
            assert [item async for item in destination.scan()] == []
            one.servers["a1"].kill()  # what was noted is in the log
            one.servers["a1"].start()
            await mover.copy_noted()
            await mover.step(source_slots, slots_pb2.FREEZE)
            await mover.copy_noted()
            assert (await source.get(KEYS[0])) is not None
            released = await mover.step(source_slots, slots_pb2.RELEASE, map_version=2)
            await mover.step(destination_slots, slots_pb2.ACTIVATE, map_version=2, revision=released.revision)
            while (await mover.step(source_slots, slots_pb2.PURGE, limit=50)).more:
                pass
            await until("a write to a slot that has gone", writer.was_refused, 60)
            writer.stop = True
            await writing

        moved = [key for key in KEYS if slot_of(key) in SLOTS]
        for key in KEYS:
            owner = destination if key in moved else source
            found = await owner.get(key)
            assert found is not None
            assert (found.value, found.revision) == writer.last.get(key, (b"0", found.revision))
        for key in moved[:5]:
            found = await destination.get(key)
            assert found is not None
            swapped = await destination.compare_and_swap(key, b"mine", expected_revision=found.revision)
            assert swapped.swapped
            assert swapped.revision > found.revision
            with pytest.raises(WrongClusterError) as caught:
                await source.get(key)
            assert caught.value.map_version == 2
        assert [item.key async for item in source.scan()] == [key for key in KEYS if key not in moved]
        assert [item.key async for item in destination.scan()] == moved
        with pytest.raises(RefusedError) as refused:
            await mover.step(source_slots, slots_pb2.UNFREEZE)
        assert refused.value.reason == Reason.MOVE_REFUSED


class Writer:
    """Puts one key after the other until it is stopped, and remembers what was acknowledged."""

    def __init__(self, client: RavelClient) -> None:
        self._client = client
        self.stop = False
        self.last: dict[bytes, tuple[bytes, int]] = {}
        self.refused = 0

    async def has_written(self) -> bool:
        return any(slot_of(key) in SLOTS for key in self.last)

    async def was_refused(self) -> bool:
        return self.refused > 0

    async def run(self) -> None:
        number = 0
        while not self.stop:
            number += 1
            key, value = KEYS[number * 7 % len(KEYS)], b"%d" % number
            try:
                self.last[key] = (value, (await self._client.put(key, value)).revision)
            except WrongClusterError:
                self.refused += 1
