"""Snapshots over real connections: whole, resumed, refused, given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from ravel_node.raft.types import ConfState, Index, MessageType, ReplicaId, Snapshot, Term
from ravel_node.replica.errors import ReplicaBusyError, WrongClusterError
from ravel_node.server.app import RpcServer
from ravel_node.storage.base import SnapshotRefusedError, StoreFailedError
from ravel_node.transport import snapshot_stream
from ravel_node.transport.base import Hello
from ravel_node.transport.grpc_transport import GrpcTransport
from ravel_node.transport.snapshot_stream import CHUNK_BYTES, SnapshotSender
from tests.server.fakes import FakeHost, FakeStaged, server_id, start_peer_server
from tests.transport.support import HELLO, ONE, Listener, eventually, heartbeat, outgoing, snapshot_message

SIZE = 5 * CHUNK_BYTES + 12_345


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def server(host: FakeHost) -> AsyncIterator[RpcServer]:
    server = await start_peer_server(host)
    yield server
    await server.stop(0.0)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def transport(server: RpcServer, listener: Listener) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport()
    await transport.start(lambda: HELLO, listener)
    transport.add_peer(ONE, f"127.0.0.1:{server.port}", server_id(1))
    yield transport
    await transport.close()


async def test_a_snapshot_arrives_and_its_message_follows(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    message, file = snapshot_message(), outgoing(tmp_path / "s", SIZE)
    transport.send_snapshot(message, file)
    await eventually(lambda: listener.snapshots == [(ONE, True)])
    assert host.fake.stepped == [message]
    assert bytes(host.store.staged_data[file.sha256]) == file.path.read_bytes()
    stats = transport.stats(ONE)
    assert (stats.snapshot_index, stats.snapshot_sent_bytes, stats.snapshot_size_bytes) == (0, 0, 0)


async def test_an_empty_file_is_a_file(host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path) -> None:
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", 0))
    await eventually(lambda: listener.snapshots == [(ONE, True)])


async def test_progress_shows_and_heartbeats_go_on(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.store.write_delay_s = 0.1
    transport.send_snapshot(snapshot_message(100), outgoing(tmp_path / "s", SIZE))
    stats = transport.stats(ONE)
    await eventually(lambda: stats.snapshot_sent_bytes >= CHUNK_BYTES)
    assert (stats.snapshot_index, stats.snapshot_size_bytes) == (100, SIZE)
    transport.send([heartbeat()])
    await eventually(lambda: any(message.type is MessageType.HEARTBEAT for message in host.fake.stepped))
    assert listener.snapshots == []
    await eventually(lambda: listener.snapshots == [(ONE, True)])


async def test_a_second_snapshot_for_the_same_peer_is_refused(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.store.write_delay_s = 0.05
    file = outgoing(tmp_path / "s", SIZE)
    transport.send_snapshot(snapshot_message(), file)
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    await eventually(lambda: listener.snapshots == [(ONE, False), (ONE, True)])
    transport.send_snapshot(replace(snapshot_message(), to=ReplicaId(9)), file)
    await eventually(lambda: listener.snapshots[2:] == [(ReplicaId(9), False)])


async def test_a_broken_transfer_goes_on_where_it_stopped(
    host: FakeHost,
    server: RpcServer,
    transport: GrpcTransport,
    listener: Listener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_stream, "ATTEMPT_DELAY_S", 1.0)
    host.store.write_delay_s = 0.05
    file = outgoing(tmp_path / "s", 12 * CHUNK_BYTES)
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: len(host.store.staged_data.get(file.sha256, b"")) >= 3 * CHUNK_BYTES)
    await server.stop(0.0)
    held = len(host.store.staged_data[file.sha256])
    assert held < 12 * CHUNK_BYTES
    again = await start_peer_server(host, f"127.0.0.1:{server.port}")
    await eventually(lambda: bool(listener.snapshots), 60.0)
    assert listener.snapshots == [(ONE, True)], transport.stats(ONE).last_error
    assert host.fake.staged[-1].received == 12 * CHUNK_BYTES
    assert host.store.staged_data[file.sha256] == file.path.read_bytes()
    assert held >= 3 * CHUNK_BYTES  # and nothing of it was sent again: the receiver takes no offset but its own
    await again.stop(0.0)


async def test_a_damaged_file_is_refused_and_forgotten(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    file = replace(outgoing(tmp_path / "s", SIZE), sha256=b"\0" * 32)
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert host.fake.stepped == []
    assert host.store.staged_data == {}
    assert "sha256" in transport.stats(ONE).last_error


async def test_a_file_of_another_point_than_its_message_is_refused(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.fake.staged_result = Snapshot(Index(99), Term(3), ConfState(voters=(ONE,)))
    transport.send_snapshot(snapshot_message(100), outgoing(tmp_path / "s", 1000))
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert host.fake.stepped == []
    assert "index 99" in transport.stats(ONE).last_error


async def test_a_file_of_another_membership_than_its_message_is_refused(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    """The core takes the membership over from the message, and the machine from the file."""
    announced = snapshot_message(100).snapshot
    assert announced is not None
    host.fake.staged_result = replace(announced, conf_state=ConfState(voters=(ONE,)))
    transport.send_snapshot(snapshot_message(100), outgoing(tmp_path / "s", 1000))
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert host.fake.stepped == []


async def test_a_transfer_that_breaks_often_ends_as_long_as_it_gets_on(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt brings one chunk: more attempts than may fail in a row."""
    monkeypatch.setattr(snapshot_stream, "ATTEMPT_DELAY_S", 0.01)
    write = FakeStaged.write

    async def write_one(self: FakeStaged, offset: int, data: bytes) -> None:
        if offset != getattr(self, "begun_at", offset):
            raise ReplicaBusyError("not now")
        self.begun_at = offset  # type: ignore[attr-defined]
        await write(self, offset, data)

    monkeypatch.setattr(FakeStaged, "write", write_one)
    chunks = snapshot_stream.ATTEMPTS_MAX + 3
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", chunks * CHUNK_BYTES))
    await eventually(lambda: bool(listener.snapshots))
    assert listener.snapshots == [(ONE, True)], transport.stats(ONE).last_error
    assert len(host.fake.staged) >= chunks


async def test_a_refusal_is_not_tried_again(host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path) -> None:
    host.store.write_failures = [SnapshotRefusedError("the format is unknown")]
    # One chunk: a refusal that meets the next chunk on its way may lose its reason, and is then tried again.
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", CHUNK_BYTES))
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert len(host.fake.staged) == 1
    assert "the format is unknown" in transport.stats(ONE).last_error


async def test_a_failed_disk_of_the_receiver_is_told_to_its_daemon(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    failure = StoreFailedError("fdatasync failed")
    host.store.write_failures = [failure] * 20  # a disk that failed once stays failed, however often the sender tries
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", SIZE))
    await eventually(lambda: listener.snapshots == [(ONE, False)], 60.0)
    assert set(host.fatal) == {failure}


async def test_a_peer_that_never_answers_is_given_up(
    host: FakeHost,
    server: RpcServer,
    transport: GrpcTransport,
    listener: Listener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_stream, "ATTEMPT_DELAY_S", 0.01)
    await server.stop(0.0)
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", SIZE))
    with structlog.testing.capture_logs() as logs:
        await eventually(lambda: listener.snapshots == [(ONE, False)], 60.0)
    [told] = [line for line in logs if line["event"] == "transport.snapshot_failed"]
    assert "attempts" in told["why"]


async def test_an_error_in_this_program_fails_the_transfer_and_is_logged(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: SnapshotSender) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(SnapshotSender, "run", fail)
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", SIZE))
    with structlog.testing.capture_logs() as logs:
        await eventually(lambda: listener.snapshots == [(ONE, False)])
    [told] = [line for line in logs if line["event"] == "transport.snapshot_failed"]
    assert (told["log_level"], repr(told["exc_info"])) == ("error", "KeyError('planted')")


async def test_a_file_that_cannot_be_read_fails_the_transfer(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    file = outgoing(tmp_path / "s", SIZE)
    transport.send_snapshot(snapshot_message(), replace(file, path=tmp_path / "gone"))
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert "cannot be read" in transport.stats(ONE).last_error
    file.path.write_bytes(b"short")
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots == [(ONE, False)] * 2)
    assert f"ends at byte 5 of {SIZE}" in transport.stats(ONE).last_error


async def test_a_long_verification_is_not_silence(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_stream, "VERIFY_WORD_S", 0.1)
    monkeypatch.setattr(snapshot_stream, "STALL_TIMEOUT_S", 1.0)
    host.fake.finish_delay_s = 2.0
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", 1000))
    await eventually(lambda: listener.snapshots != [])
    assert listener.snapshots == [(ONE, True)]
    assert len(host.fake.staged) == 1


async def test_a_newer_transfer_takes_the_place_of_a_hanging_one(
    host: FakeHost, server: RpcServer, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.store.write_delay_s = 0.2
    file = outgoing(tmp_path / "s", SIZE)
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: len(host.store.staged_data.get(file.sha256, b"")) >= CHUNK_BYTES)
    second, other = GrpcTransport(), Listener()
    await second.start(lambda: Hello(HELLO.cluster_id, HELLO.replica_id, HELLO.server_id, "3" * 16, "0.1.0", ""), other)
    second.add_peer(ONE, f"127.0.0.1:{server.port}", server_id(1))
    second.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert "newer transfer" in transport.stats(ONE).last_error
    await eventually(lambda: other.snapshots == [(ONE, True)])
    await second.close()


async def test_removing_the_peer_ends_its_snapshot(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.store.write_delay_s = 0.1
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", SIZE))
    await asyncio.sleep(0.05)
    transport.remove_peer(ONE)
    await eventually(lambda: listener.snapshots == [(ONE, False)])


async def test_only_who_may_talk_may_send_a_snapshot(
    host: FakeHost, transport: GrpcTransport, listener: Listener, tmp_path: Path
) -> None:
    host.fake.peer_failure = WrongClusterError("another cluster")
    transport.send_snapshot(snapshot_message(), outgoing(tmp_path / "s", SIZE))
    await eventually(lambda: listener.snapshots == [(ONE, False)])
    assert host.fake.staged == []
