"""Snapshots that are built and sent: failed builds, failed transfers, and what a failure may be held against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ravel_node.raft import ConfState, Index, Message, MessageType, RawNode, ReplicaId, Snapshot, StorageError, Term
from ravel_node.replica.chronicle import Chronicle
from ravel_node.replica.snapshots import Snapshots
from ravel_node.storage.base import Store, StoreError, StoreFailedError
from ravel_node.transport.base import OutgoingSnapshot, Transport
from tests.replica.virtual import virtual

TWO = ReplicaId(2)


class World:
    """A store, a transport and a core that note what is asked of them."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.builds: list[Exception | None] = []  # how the next ones end
        self.built_at: list[float] = []
        self.held: list[int] = []
        self.snapshots = Snapshots(
            store=cast(Store, self),
            transport=cast(Transport, self),
            chronicle=cast(Chronicle, SimpleNamespace(snapshot_sending=self._ignore, snapshot_sent=self._ignore)),
            call=self._call,
            clock=asyncio.get_running_loop().time,
        )
        self.running = asyncio.create_task(self.snapshots.run())

    def _ignore(self, *_: object, **__: object) -> None: ...

    def _call(self, function: Callable[[RawNode], None]) -> None:
        function(cast(RawNode, SimpleNamespace(report_snapshot=lambda peer, ok: self.log.append(("report", peer, ok)))))

    async def build_snapshot(self) -> None:
        self.built_at.append(asyncio.get_running_loop().time())
        if self.builds and (error := self.builds.pop(0)) is not None:
            raise error

    def open_snapshot(self, index: Index) -> Any:
        if index == 404:
            raise StorageError("it is gone")
        header = SimpleNamespace(size_bytes=9, sha256="ab" * 32)
        return SimpleNamespace(header=header, header_bytes=b"h", path=Path("s"))

    def hold(self, index: Index) -> None:
        self.held.append(index)

    def release(self, index: Index) -> None:
        self.held.remove(index)

    async def doubt_snapshot(self, index: Index) -> None:
        self.log.append(("doubt", index))
        await asyncio.sleep(0.01)

    def send_snapshot(self, message: Message, file: OutgoingSnapshot) -> None:
        self.log.append(("send", message.to))

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


def message(index: int = 7, to: ReplicaId = TWO) -> Message:
    snapshot = Snapshot(Index(index), Term(1), ConfState(voters=(ReplicaId(1), to)))
    return Message(MessageType.SNAPSHOT, to=to, from_=ReplicaId(1), snapshot=snapshot)


@virtual
async def test_a_full_disk_is_tried_again_after_a_while() -> None:
    world = World()
    world.builds = [StoreError("no space left"), StoreError("no space left"), None]
    for _ in range(3):
        world.snapshots.outdated()
        await asyncio.sleep(6)
    assert [round(after - before) for before, after in zip(world.built_at, world.built_at[1:], strict=False)] == [6, 6]
    assert not world.running.done()
    world.snapshots.outdated()
    await asyncio.sleep(1)
    assert len(world.built_at) == 4
    await world.end()


@virtual
async def test_a_store_that_has_failed_ends_it() -> None:
    world = World()
    world.builds = [StoreFailedError("the disk is gone")]
    world.snapshots.outdated()
    done, _ = await asyncio.wait([world.running], timeout=20)
    assert done
    with pytest.raises(ExceptionGroup) as caught:
        world.running.result()
    assert caught.group_contains(StoreFailedError, match="the disk is gone")


@virtual
async def test_what_was_not_delivered_is_looked_at_before_it_is_offered_again() -> None:
    """The fault may be the file's, and it would be sent for ever."""
    world = World()
    world.snapshots.send(message())
    assert (world.held, world.log) == ([7], [("send", TWO)])
    world.snapshots.sent(TWO, delivered=False)
    await asyncio.sleep(1)
    assert world.log[1:] == [("doubt", 7), ("report", TWO, False)]
    assert (world.held, world.snapshots.sending) == ([], {})
    await world.end()


@virtual
async def test_what_was_delivered_is_let_go_of_and_as_many_as_before_can_be_sent() -> None:
    world = World()
    for _ in range(3):
        world.snapshots.send(message())
        world.snapshots.send(message(8))  # one is under way to it already
        assert world.held == [7]
        world.snapshots.sent(TWO, delivered=True)
        assert (world.held, world.snapshots.sending) == ([], {})
    assert world.log == [("send", TWO), ("report", TWO, False), ("report", TWO, True)] * 3
    world.snapshots.send(message(404))
    assert world.log[-1] == ("report", TWO, False)
    assert world.held == []
    await world.end()
