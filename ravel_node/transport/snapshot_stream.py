"""One snapshot file over one stream: chunks from disk to disk, from where an earlier transfer stopped.

The sender opens with what the file is; the receiver answers how many bytes of this very file it holds durably, and again after
each chunk. A sender whose stream broke dials again and goes on from the answer. It gives up after some attempts in a row that
moved nothing. While the receiver verifies a large file it repeats its count, so that silence means a dead peer.

At any time a transfer holds one chunk in memory at each end, and what gRPC's flow control lets into its buffers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import closing
from random import Random
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from ravel_node.raft.types import Message, Snapshot
from ravel_node.transport.base import OutgoingSnapshot, PeerStats
from ravel_node.transport.calls import INSTALL_SNAPSHOT, CallEndedError, ChannelFactory, Ended, close_quietly, ended
from ravel_node.transport.wire import message_to_wire
from ravelpb.errors import Reason
from ravelpb.v1 import raft_pb2

CHUNK_BYTES: Final = 512 << 10
CHUNK_BYTES_MAX: Final = 1 << 20
"""What is sent, and what is taken."""

STALL_TIMEOUT_S: Final = 15.0
"""A transfer without a word from the receiver for this long is broken."""

VERIFY_WORD_S: Final = 3.0
"""How often a receiver that verifies says that it is alive."""

PASSING: Final = frozenset({Reason.SHUTTING_DOWN, Reason.BLANK, Reason.BUSY})
"""Answers of a peer that is restarting, or is not there yet: it will take the rest later, from where it stopped."""

ATTEMPTS_MAX: Final = 5
"""Attempts in a row that moved no byte, after which a transfer has failed."""

ATTEMPT_DELAY_S: Final = 0.5


class TransferFailedError(Exception):
    """A snapshot did not arrive; the message tells why."""


class SnapshotStreamError(Exception):
    """What came on a stream is not the snapshot that it announced. What was received before stays."""


class SnapshotSink(Protocol):
    """Where a snapshot is received: what this side of the wire needs of a store's staged snapshot, which tells the rest."""

    @property
    def received(self) -> int: ...

    async def write(self, offset: int, data: bytes) -> None: ...

    async def finish(self) -> Snapshot: ...

    async def discard(self) -> None: ...


class SnapshotSender:
    """Sends one file to one peer."""

    def __init__(
        self,
        *,
        address: str,
        hello: raft_pb2.PeerHello,
        message: Message,
        file: OutgoingSnapshot,
        stats: PeerStats,
        channel_factory: ChannelFactory,
        rng: Random,
    ) -> None:
        self._address = address
        self._open = raft_pb2.SnapshotOpen(
            hello=hello,
            message=message_to_wire(message),
            header=file.header,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )
        self._file = file
        self._stats = stats
        self._channel_factory = channel_factory
        self._rng = rng

    async def run(self) -> None:
        """Returns once the peer has verified and taken the file. Raises TransferFailedError.

        A refusal ends it at once, unless a chunk was being written when it came: grpc.aio then puts a failed write where the
        peer's reason was. The next attempts meet the same refusal.
        """
        failures = 0
        while True:
            before = self._stats.snapshot_sent_bytes
            try:
                await self._attempt()
                return
            except CallEndedError as error:
                if error.ended.reason and error.ended.reason not in PASSING:
                    raise TransferFailedError(f"the peer refused the snapshot: {error}") from error
                failures = failures + 1 if self._stats.snapshot_sent_bytes <= before else 1
                if failures >= ATTEMPTS_MAX:
                    raise TransferFailedError(f"the snapshot did not get on in {failures} attempts: {error}") from error
            except OSError as error:
                raise TransferFailedError(f"snapshot {self._file.path.name} cannot be read: {error}") from error
            await asyncio.sleep(ATTEMPT_DELAY_S * self._rng.uniform(0.5, 1.5))

    async def _attempt(self) -> None:
        channel = self._channel_factory(self._address)
        try:
            call: Any = channel.stream_stream(INSTALL_SNAPSHOT)()
            await self._transfer(call)
        finally:
            await close_quietly(channel)

    async def _transfer(self, call: Any) -> None:
        """Raises CallEndedError, OSError."""
        await _write(call, raft_pb2.SnapshotChunk(open=self._open))
        progress = await _read_progress(call)
        self._stats.snapshot_sent_bytes = progress.received_bytes
        writer = asyncio.create_task(self._write_from(call, progress.received_bytes), name="snapshot-writer")
        try:
            while not progress.done:
                progress = await _read_progress(call)
                self._stats.snapshot_sent_bytes = progress.received_bytes
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            if not writer.cancelled() and (failure := writer.exception()) is not None:
                raise failure  # the cause of what the reader saw

    async def _write_from(self, call: Any, offset: int) -> None:
        try:
            source = await asyncio.to_thread(open, self._file.path, "rb")
            with closing(source):
                while offset < self._file.size_bytes:
                    data = await asyncio.to_thread(os.pread, source.fileno(), CHUNK_BYTES, offset)
                    if not data:
                        raise OSError(f"it ends at byte {offset} of {self._file.size_bytes}")
                    await call.write(raft_pb2.SnapshotChunk(offset=offset, data=data).SerializeToString())
                    offset += len(data)
            await call.done_writing()
        except OSError:
            await call.done_writing()  # the receiver misses the rest and ends the call, which wakes the reader
            raise
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader sees why the call ended


async def _write(call: Any, chunk: raft_pb2.SnapshotChunk) -> None:
    try:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            await call.write(chunk.SerializeToString())
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise CallEndedError(await ended(call)) from error
    except TimeoutError:
        raise _stalled() from None


async def _read_progress(call: Any) -> raft_pb2.SnapshotProgress:
    """Raises CallEndedError, also for silence and for what is no progress."""
    try:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            raw = await call.read()
            if raw is grpc.aio.EOF:
                raise CallEndedError(await ended(call))
        return raft_pb2.SnapshotProgress.FromString(raw)
    except grpc.aio.AioRpcError as error:
        raise CallEndedError(await ended(call)) from error
    except TimeoutError:
        raise _stalled() from None
    except DecodeError as error:
        raise CallEndedError(Ended("the peer answered with bytes that are no progress of a snapshot")) from error


def _stalled() -> CallEndedError:
    return CallEndedError(Ended(f"no word came from the peer for {STALL_TIMEOUT_S:g} s"))


# --- receiving


async def receive_snapshot(
    staged: SnapshotSink,
    expected: Snapshot,
    size_bytes: int,
    chunks: AsyncIterator[raft_pb2.SnapshotChunk],
    guard: Callable[[Awaitable[raft_pb2.SnapshotChunk]], Awaitable[raft_pb2.SnapshotChunk]],
) -> AsyncGenerator[int, None]:
    """Take chunks into `staged` and verify the whole; yields the bytes held, first and after each step.

    `guard` awaits the next chunk and may raise to end the transfer. Raises SnapshotStreamError for chunks out of place and for a
    file that is not the `expected` snapshot. What was received stays, for the next attempt, unless the file as a whole turned out
    wrong.
    """
    yield staged.received
    while staged.received < size_bytes:
        try:
            chunk = await guard(anext(chunks))
        except StopAsyncIteration:
            raise SnapshotStreamError(f"the stream ended at byte {staged.received} of {size_bytes}") from None
        if not 0 < len(chunk.data) <= CHUNK_BYTES_MAX:
            raise SnapshotStreamError(f"a chunk has {len(chunk.data)} bytes, it may have 1 to {CHUNK_BYTES_MAX}")
        await staged.write(chunk.offset, chunk.data)
        yield staged.received
    finishing = asyncio.ensure_future(staged.finish())
    try:
        while not finishing.done():
            await asyncio.wait([finishing], timeout=VERIFY_WORD_S)
            if not finishing.done():
                yield staged.received
    finally:
        if not finishing.done():
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
    snapshot = finishing.result()
    if snapshot.id != expected.id or snapshot.conf_state != expected.conf_state:
        await staged.discard()
        raise SnapshotStreamError(
            f"the file holds index {snapshot.index} of term {snapshot.term} with {snapshot.conf_state}, "
            f"its message names index {expected.index} of term {expected.term} with {expected.conf_state}"
        )
