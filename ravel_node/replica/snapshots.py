"""Snapshots for followers whose log ends too early: built when asked for, sent, and looked at again where they did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ravel_node.raft import Index, Message, RawNode, ReplicaId, StorageError
from ravel_node.replica.chronicle import Chronicle
from ravel_node.storage.base import Store, StoreError, StoreFailedError
from ravel_node.transport.base import OutgoingSnapshot, Transport

BUILD_RETRY_S: Final = 5.0
"""How long after a failed build the next one is tried."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A snapshot under way to a peer."""

    index: Index
    began_at: float


class Snapshots:
    """What one replica builds and sends. `call` has the driver do something to the core."""

    def __init__(
        self,
        *,
        store: Store,
        transport: Transport,
        chronicle: Chronicle,
        call: Callable[[Callable[[RawNode], None]], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._transport = transport
        self._chronicle = chronicle
        self._call = call
        self._clock = clock
        self.sending: dict[ReplicaId, Sending] = {}
        self._undelivered: asyncio.Queue[ReplicaId] = asyncio.Queue()  # each a key of `sending`, so at most one a peer
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises StoreFailedError."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._build(), name="snapshots")
            tasks.create_task(self._doubt(), name="doubted snapshots")

    def outdated(self) -> None:
        """The newest one is older than the membership of a replica that needs it: another is built."""
        self._wanted.set()

    def send(self, message: Message) -> None:
        """Send the one that the core chose; the core is told how it ended, also where it cannot begin."""
        snapshot = message.snapshot
        try:
            if snapshot is None or message.to in self.sending:
                raise StorageError("a snapshot is under way to this replica already")
            file = self._store.open_snapshot(snapshot.index)
        except StorageError:
            self._call(lambda raw: raw.report_snapshot(message.to, False))
            return
        self.sending[message.to] = Sending(snapshot.index, self._clock())
        self._store.hold(snapshot.index)
        header = file.header
        self._chronicle.snapshot_sending(message.to, snapshot.index, header.size_bytes)
        self._transport.send_snapshot(
            message, OutgoingSnapshot(file.path, file.header_bytes, header.size_bytes, bytes.fromhex(header.sha256))
        )

    def sent(self, peer: ReplicaId, delivered: bool) -> None:
        """The transport has ended with the one for this peer."""
        if not delivered and peer in self.sending:
            self._undelivered.put_nowait(peer)  # the fault may be the file's: it is looked at before it is offered again
        else:
            self._ended(peer, delivered)

    def _ended(self, peer: ReplicaId, delivered: bool) -> None:
        if (sending := self.sending.pop(peer, None)) is not None:
            self._store.release(sending.index)
            seconds = self._clock() - sending.began_at
            self._chronicle.snapshot_sent(peer, sending.index, seconds, delivered=delivered)
        self._call(lambda raw: raw.report_snapshot(peer, delivered))

    async def _build(self) -> None:
        """A disk that is full is tried again after a while."""
        while True:
            await self._wanted.wait()
            try:
                await self._store.build_snapshot()
            except StoreFailedError:
                raise
            except StoreError:
                await asyncio.sleep(BUILD_RETRY_S)
            self._wanted.clear()

    async def _doubt(self) -> None:
        """Verify again what a peer did not take, or a file that went bad on this disk would be sent to it for ever."""
        while True:
            peer = await self._undelivered.get()
            if (sending := self.sending.get(peer)) is not None:
                await self._store.doubt_snapshot(sending.index)
            self._ended(peer, delivered=False)
