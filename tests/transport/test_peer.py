"""One peer over real connections: delivery, order of importance, bounds, reconnecting, refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import LOCAL_APPEND, Index, Message, MessageType, ReplicaId, Term
from ravel_node.replica.errors import BlankError, RemovedError, WrongClusterError, WrongIdentityError
from ravel_node.server.app import RpcServer
from ravel_node.transport import peer as peer_module
from ravel_node.transport.base import Hello, ProbeFailedError
from ravel_node.transport.calls import insecure_channel
from ravel_node.transport.grpc_transport import GrpcTransport
from ravel_node.transport.peer import BULK_MESSAGES_MAX, URGENT_MESSAGES_MAX, PeerOptions
from ravel_node.transport.wire import fill_message
from tests.faults.proxy import Network
from tests.server.fakes import CLUSTER, FakeHost, server_id, start_peer_server
from tests.transport.support import HELLO, ONE, TWO, Listener, acknowledgement, append, eventually, heartbeat, tidings

FAST = PeerOptions(backoff_max_s=0.2, refused_backoff_s=0.1)
NEVER_ALONE = PeerOptions(tidings_linger_s=3_600.0)


@asynccontextmanager
async def dialling(
    address: str,
    listener: Listener,
    options: PeerOptions = FAST,
    hello: Hello = HELLO,
    expected: str = server_id(1),
    **more: Any,
) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(options=options, rng=Random(1), **more)
    await transport.start(lambda: hello, listener)
    transport.add_peer(ONE, address, expected)
    try:
        yield transport
    finally:
        await transport.close()


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def server(host: FakeHost) -> AsyncIterator[RpcServer]:
    server = await start_peer_server(host)
    yield server
    await server.stop(0.0)


def at(server: RpcServer) -> str:
    return f"127.0.0.1:{server.port}"


async def test_messages_arrive_whole_and_in_order(host: FakeHost, server: RpcServer) -> None:
    listener = Listener()
    sent = [append(index, bytes([index % 256]) * (index % 3000)) for index in range(1, 2001)]
    async with dialling(at(server), listener) as transport:
        for start in range(0, 2000, 100):
            transport.send(sent[start : start + 100])
            await asyncio.sleep(0)
        await eventually(lambda: len(host.fake.stepped) == 2000)
        assert host.fake.stepped == sent
        assert host.fake.hellos == [(CLUSTER, TWO, ONE, server_id(2))]
        stats = transport.stats(ONE)
        await eventually(lambda: stats.sent_messages == 2000)  # they are counted once the stream has taken them
        assert (stats.connected, stats.dropped_messages) == (True, 0)
        assert stats.sent_bytes > sum(len(message.entries[0].data) for message in sent)
    assert listener.unreachable == []


async def test_a_large_entry_passes_in_a_frame_of_its_own(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener()) as transport:
        transport.send([append(1, b"x" * (6 << 20)), append(2)])
        await eventually(lambda: len(host.fake.stepped) == 2)
    assert len(host.fake.stepped[0].entries[0].data) == 6 << 20


async def test_a_heartbeat_overtakes_what_waits(host: FakeHost, server: RpcServer) -> None:
    """Of 48 MiB of appends at most one frame leaves before the heartbeat that was sent last."""
    async with dialling(at(server), Listener()) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        data = b"x" * (64 << 10)
        transport.send([append(index, data) for index in range(1, 769)])
        transport.send([heartbeat()])
        await eventually(lambda: len(host.fake.stepped) == 769)
    position = next(i for i, message in enumerate(host.fake.stepped) if message.type is MessageType.HEARTBEAT)
    assert position <= 40


async def test_a_heartbeat_has_room_in_a_full_queue() -> None:
    listener = Listener()
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with dialling(f"127.0.0.1:{silent.getsockname()[1]}", listener) as transport:
            transport.send([append(index) for index in range(1, BULK_MESSAGES_MAX + 11)])
            stats = transport.stats(ONE)
            assert stats.dropped_messages == 10
            transport.send([heartbeat() for _ in range(URGENT_MESSAGES_MAX)])
            assert stats.dropped_messages == 10
            transport.send([heartbeat()] * 5)
            assert stats.dropped_messages == 15
            assert listener.unreachable == []  # never from within `send`
            await eventually(lambda: listener.unreachable == [ONE])


async def test_the_bulk_queue_is_bounded_in_bytes_and_takes_one_of_any_size() -> None:
    listener = Listener()
    options = PeerOptions(bulk_bytes_max=100_000)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with dialling(f"127.0.0.1:{silent.getsockname()[1]}", listener, options) as transport:
            transport.send([append(1, b"x" * 200_000)])
            assert transport.stats(ONE).dropped_messages == 0
            transport.send([append(2)])
            assert transport.stats(ONE).dropped_messages == 1


async def test_what_has_left_makes_room_for_as_much_again(host: FakeHost, server: RpcServer) -> None:
    data = b"x" * 40_000
    async with dialling(at(server), Listener(), PeerOptions(bulk_bytes_max=100_000)) as transport:
        stats = transport.stats(ONE)
        await eventually(lambda: stats.connected)
        for number in range(1, 5):
            transport.send([append(index, data) for index in range(1, 3)])
            assert stats.dropped_messages == number - 1, "two fit"
            transport.send([append(3, data)])
            assert stats.dropped_messages == number, "and a third one does not"
            await eventually(lambda: len(host.fake.stepped) == 2 * number)  # noqa: B023  # it is called in this very round


async def test_a_failed_attempt_leaves_room_for_as_much_again() -> None:
    data = b"x" * 40_000
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        options = PeerOptions(bulk_bytes_max=100_000, backoff_min_s=0.02, backoff_max_s=0.02)
        async with dialling(f"127.0.0.1:{closed.getsockname()[1]}", Listener(), options) as transport:
            stats = transport.stats(ONE)
            for number in range(1, 4):
                before = stats.dropped_messages
                transport.send([append(index, data) for index in range(1, 3)])
                assert stats.dropped_messages == before
                transport.send([append(3, data)])
                assert stats.dropped_messages == before + 1
                await eventually(lambda: stats.dropped_messages == 3 * number)  # noqa: B023  # the queue was emptied


async def test_what_is_overtaken_takes_no_room(host: FakeHost, server: RpcServer) -> None:
    options = PeerOptions(tidings_linger_s=3_600.0, bulk_bytes_max=1_000)
    async with dialling(at(server), Listener(), options) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        transport.send([tidings(8, commit=commit) for commit in range(1, 101)])
        assert transport.stats(ONE).dropped_messages == 0
        transport.send([append(9, b"x" * 800)])
        assert transport.stats(ONE).dropped_messages == 0
        await eventually(lambda: len(host.fake.stepped) == 2)
        assert host.fake.stepped == [tidings(8, commit=100), append(9, b"x" * 800)]


async def test_it_reconnects_after_a_restart_of_the_server(host: FakeHost, server: RpcServer) -> None:
    listener = Listener()
    async with dialling(at(server), listener) as transport:
        transport.send([heartbeat(1)])
        await eventually(lambda: len(host.fake.stepped) == 1)
        await server.stop(0.0)
        await eventually(lambda: not transport.stats(ONE).connected)
        await eventually(lambda: listener.unreachable != [])
        again = await start_peer_server(host, at(server))
        try:
            await eventually(lambda: transport.stats(ONE).connected)
            transport.send([heartbeat(2)])
            await eventually(lambda: host.fake.stepped[-1].commit == 2)
            assert transport.stats(ONE).reconnects >= 1
        finally:
            await again.stop(0.0)


async def test_each_failed_attempt_is_told_once_and_empties_the_queue() -> None:
    listener = Listener()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        async with dialling(f"127.0.0.1:{closed.getsockname()[1]}", listener) as transport:
            transport.send([heartbeat()] * 20)
            stats = transport.stats(ONE)
            await eventually(lambda: stats.reconnects >= 3)
            assert stats.dropped_messages == 20
            assert abs(len(listener.unreachable) - stats.reconnects) <= 1
            assert "unavailable" in stats.last_error


async def test_a_nudge_ends_the_pause(host: FakeHost, server: RpcServer) -> None:
    await server.stop(0.0)
    slow = PeerOptions(backoff_min_s=300.0, backoff_max_s=300.0)
    listener = Listener()
    async with dialling(at(server), listener, slow) as transport:
        await eventually(lambda: listener.unreachable != [])
        again = await start_peer_server(host, at(server))
        await asyncio.sleep(0.05)
        assert not transport.stats(ONE).connected
        transport.nudge(ONE)
        transport.nudge(TWO)  # unknown: ignored
        await eventually(lambda: transport.stats(ONE).connected)
        await again.stop(0.0)


async def test_a_network_that_breaks_connections_is_met_with_short_pauses(server: RpcServer) -> None:
    network = Network(dict)
    address = await network.front("there", at(server))
    try:
        async with dialling(address, Listener(), PeerOptions(backoff_min_s=0.02, backoff_max_s=300.0)) as transport:
            stats = transport.stats(ONE)
            for _ in range(14):  # pauses that doubled each time would take minutes by now
                await eventually(lambda: stats.connected)
                network.reset()
                await eventually(lambda: not stats.connected)
            await eventually(lambda: stats.connected)
    finally:
        await network.close()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (WrongClusterError("another cluster"), "another cluster"),
        (WrongIdentityError("a wiped disk"), "a wiped disk"),
    ],
)
async def test_refusals_are_remembered_and_retried_slowly(
    host: FakeHost, server: RpcServer, failure: Exception, reason: str
) -> None:
    host.fake.peer_failure = failure
    times: list[float] = []

    class Timed(list[tuple[str, int, int, str]]):
        def append(self, hello: tuple[str, int, int, str]) -> None:
            super().append(hello)
            times.append(asyncio.get_running_loop().time())

    host.fake.hellos = Timed()
    listener = Listener()
    async with dialling(at(server), listener, PeerOptions()) as transport:
        await eventually(lambda: len(times) == 2)
        assert reason in transport.stats(ONE).last_error
        assert times[1] - times[0] >= 0.99, "the next attempt is a second away"
        assert listener.removed == []
        host.fake.peer_failure = None
        await eventually(lambda: transport.stats(ONE).connected)


async def test_a_blank_daemon_is_retried_soon(host: FakeHost, server: RpcServer) -> None:
    """It is about to take its identity: a leader must not keep it waiting."""
    host.fake.peer_failure = BlankError()
    async with dialling(at(server), Listener(), PeerOptions(refused_backoff_s=300.0)) as transport:
        await eventually(lambda: len(host.fake.hellos) >= 3)
        assert "belongs to no cluster" in transport.stats(ONE).last_error


async def test_a_removed_replica_hears_it_once(host: FakeHost, server: RpcServer) -> None:
    host.fake.peer_failure = RemovedError("replica 2 was removed for good")
    listener = Listener()
    async with dialling(at(server), listener) as transport:
        await eventually(lambda: len(host.fake.hellos) >= 3)
        assert listener.removed == [ONE]
        assert "removed for good" in transport.stats(ONE).last_error


@pytest.mark.parametrize(
    ("hello", "expected", "why"),
    [
        (HELLO, server_id(9), "was meant"),
        (Hello("d" * 32, TWO, server_id(2), "2" * 16, "0.1.0", ""), server_id(1), "belongs to cluster"),
    ],
)
async def test_the_answer_to_a_hello_is_checked_too(
    host: FakeHost, server: RpcServer, hello: Hello, expected: str, why: str
) -> None:
    async with dialling(at(server), Listener(), hello=hello, expected=expected) as transport:
        transport.send([heartbeat()])
        await eventually(lambda: why in transport.stats(ONE).last_error)
        assert not transport.stats(ONE).connected
    assert host.fake.stepped == []


async def test_whatever_else_listens_there_is_no_peer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(range(256)))
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    listener = Listener()
    async with web, dialling(f"127.0.0.1:{web.sockets[0].getsockname()[1]}", listener) as transport:
        await eventually(lambda: transport.stats(ONE).reconnects >= 2)
        assert not transport.stats(ONE).connected


async def test_a_new_address_is_dialled_at_once(host: FakeHost, server: RpcServer) -> None:
    other = FakeHost()
    second = await start_peer_server(other)
    async with dialling(at(server), Listener()) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        transport.add_peer(ONE, at(server), server_id(1))  # nothing new
        transport.add_peer(ONE, at(second), server_id(1))
        transport.send([heartbeat()])
        await eventually(lambda: len(other.fake.stepped) == 1)
        assert host.fake.stepped == []
        assert len(host.fake.hellos) == 1
    await second.stop(0.0)


async def test_the_answer_to_a_question_is_that_of_the_peer_that_was_asked(host: FakeHost, server: RpcServer) -> None:
    """Replica 1 answers at an address that was replica 3's."""
    three = ReplicaId(3)
    async with dialling(at(server), Listener()) as transport:
        transport.add_peer(three, at(server), server_id(3))
        assert (await transport.state_hashes(ONE, 5.0)).applied_index == host.fake.applied.index
        with pytest.raises(ProbeFailedError, match="answers replica 1, where replica 3 was meant"):
            await transport.state_hashes(three, 5.0)
        with pytest.raises(ProbeFailedError, match="where replica 3 was meant"):
            await transport.member(three, ONE, 5.0)


async def test_messages_for_removed_and_unknown_peers_are_dropped(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener()) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        transport.remove_peer(ONE)
        transport.remove_peer(ONE)
        transport.send([heartbeat()])
        assert transport.stats(ONE).sent_messages == 0


async def test_a_message_that_may_not_travel_costs_only_itself(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener()) as transport:
        transport.send([Message(MessageType.HUP, ONE, TWO, Term(3)), Message(MessageType.VOTE, ONE, LOCAL_APPEND), heartbeat(5)])
        await eventually(lambda: [message.commit for message in host.fake.stepped] == [5])
        assert transport.stats(ONE).dropped_messages == 2


async def test_news_of_a_commit_leave_alone_after_a_while(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener()) as transport:
        transport.send([tidings(8, commit=5)])
        await eventually(lambda: [message.commit for message in host.fake.stepped] == [5])


async def test_news_of_a_commit_wait_for_company_and_are_overtaken_by_later_ones(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener(), NEVER_ALONE) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        transport.send([tidings(8, commit=5)])
        await asyncio.sleep(0.05)
        transport.send([tidings(8, commit=6)])
        await asyncio.sleep(0.05)
        assert host.fake.stepped == []
        transport.send([heartbeat()])
        await eventually(lambda: len(host.fake.stepped) == 2)
        assert host.fake.stepped == [heartbeat(), tidings(8, commit=6)]
        assert transport.stats(ONE).dropped_messages == 0


async def test_an_append_brings_the_news_itself(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener(), NEVER_ALONE) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        older = tidings(8, commit=5)
        newer = dataclasses.replace(append(9), commit=Index(6))
        transport.send([older, newer])
        await eventually(lambda: host.fake.stepped == [newer])
        # Not of a later term, nor after one that knows less: there each says what the other does not.
        kept = [older, dataclasses.replace(newer, term=Term(4)), older, append(9)]
        transport.send(kept)
        await eventually(lambda: host.fake.stepped == [newer, *kept])


async def test_of_acknowledgements_that_wait_the_newest_leaves_and_no_refusal_is_lost(host: FakeHost, server: RpcServer) -> None:
    async with dialling(at(server), Listener()) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        refusal = dataclasses.replace(acknowledgement(4), reject=True)
        transport.send([acknowledgement(3), acknowledgement(5), refusal, acknowledgement(4), acknowledgement(9)])
        await eventually(lambda: host.fake.stepped == [acknowledgement(5), refusal, acknowledgement(9)])


async def test_an_idle_stream_is_not_taken_for_abuse(host: FakeHost, server: RpcServer) -> None:
    """Its pings get no data in between, which gRPC answers with GOAWAY unless told not to."""
    listener = Listener()
    async with dialling(at(server), listener) as transport:
        for _ in range(5):  # a machine that is too busy to answer a ping breaks a connection too, but not each time
            await eventually(lambda: transport.stats(ONE).connected)
            listener.unreachable.clear()
            await asyncio.sleep(4.5)
            if transport.stats(ONE).connected and listener.unreachable == []:
                return
        pytest.fail("no stream stays open while nothing is sent on it")


async def test_closing_is_quick_and_final() -> None:
    listener = Listener()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with dialling(address, listener) as transport:
            await asyncio.sleep(0.1)
            began = asyncio.get_running_loop().time()
            await transport.close()
            assert asyncio.get_running_loop().time() - began < 10.0, "it waits for nobody"
            transport.add_peer(TWO, address, "")
            transport.send([heartbeat()])
            assert transport.stats(TWO).sent_messages == 0
    names: list[Any] = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("peer-")]


async def test_a_connection_that_died_without_a_word_is_noticed(host: FakeHost, server: RpcServer) -> None:
    """As when a cable is pulled: bytes go nowhere, nobody closes. Keepalive finds out within about an election timeout."""
    forwarding = asyncio.Event()
    forwarding.set()
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await forwarding.wait()
            writer.write(data)

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writers.extend((writer, far_writer))
        tasks.extend(asyncio.create_task(pump(*pair)) for pair in ((reader, far_writer), (far_reader, writer)))

    front = await asyncio.start_server(proxy, "127.0.0.1", 0)
    listener = Listener()
    async with dialling(f"127.0.0.1:{front.sockets[0].getsockname()[1]}", listener) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        forwarding.clear()
        await eventually(lambda: listener.unreachable != [])  # after 1.5 s on an idle machine, where TCP alone takes many minutes
        forwarding.set()
        await eventually(lambda: transport.stats(ONE).connected)
    for task in tasks:
        task.cancel()
    for writer in writers:
        writer.close()
    front.close()


# --- errors in this program


class Fails:
    """Stands in for a function, and fails when it is called for the first time."""

    def __init__(self, function: Any, error: Exception) -> None:
        self.function = function
        self.error: Exception | None = error

    def __call__(self, *arguments: Any) -> Any:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.function(*arguments)


async def test_an_error_in_this_program_ends_the_attempt_is_logged_and_counted_and_the_next_one_follows(
    host: FakeHost, server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, faults, broken = Listener(), [], list[BaseException]()
    monkeypatch.setattr(peer_module, "fill_message", Fails(fill_message, KeyError("planted")))
    with capture_logs() as logs:
        async with dialling(at(server), listener, on_fault=lambda: faults.append(1), on_broken=broken.append) as transport:
            await eventually(lambda: transport.stats(ONE).connected)
            transport.send([append(1)])
            await eventually(lambda: listener.unreachable == [ONE])
            assert "KeyError: 'planted'" in transport.stats(ONE).last_error
            await eventually(lambda: transport.stats(ONE).connected)
            transport.send([append(2)])
            await eventually(lambda: host.fake.stepped == [append(2)])
    assert (len(faults), broken) == (1, [])
    [told] = [line for line in logs if line["event"] == "transport.peer_failed"]
    assert (told["log_level"], told["peer"], repr(told["exc_info"])) == ("error", ONE, "KeyError('planted')")


async def test_a_channel_that_cannot_be_made_is_tried_again(host: FakeHost, server: RpcServer) -> None:
    faults: list[int] = []
    factory = Fails(insecure_channel, ValueError("planted"))
    async with dialling(at(server), Listener(), channel_factory=factory, on_fault=lambda: faults.append(1)) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
    assert len(faults) == 1


async def test_a_broken_invariant_in_a_peer_is_nobodys_to_catch(
    host: FakeHost, server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[BaseException] = []
    error = InvariantError("planted")
    monkeypatch.setattr(peer_module, "fill_message", Fails(fill_message, error))
    async with dialling(at(server), Listener(), on_broken=broken.append) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
        transport.send([append(1)])
        await eventually(lambda: broken == [error])


async def test_a_replica_that_fails_while_it_is_told_of_a_peer_must_not_go_on() -> None:
    broken: list[BaseException] = []
    error = KeyError("planted")

    class Broken(Listener):
        def peer_unreachable(self, peer: object) -> None:
            raise error

    async with dialling("127.0.0.1:1", Broken(), on_broken=broken.append):
        await eventually(lambda: broken == [error])


async def test_without_anybody_who_takes_it_such_an_error_reaches_the_loop() -> None:
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))
    error = KeyError("planted")

    class Broken(Listener):
        def peer_unreachable(self, peer: object) -> None:
            raise error

    async with dialling("127.0.0.1:1", Broken()):
        await eventually(lambda: seen == [error])


async def test_the_end_of_a_peer_is_no_error(server: RpcServer) -> None:
    broken: list[BaseException] = []
    async with dialling(at(server), Listener(), on_broken=broken.append) as transport:
        await eventually(lambda: transport.stats(ONE).connected)
    assert broken == []
