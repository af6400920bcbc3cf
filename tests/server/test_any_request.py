"""Whatever a client or a peer sends is answered, or refused in a way that the one map of errors knows; never a fault of ours.

Requests of every method are made from the descriptors. Each goes to the handlers around a machine of their own, and lists of
them, with Raft messages between, to the handlers around a real replica with a real driver, core and store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, cast

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.kv import KVMachine
from ravel_node.replica.errors import AlreadyMemberError, MembershipError
from ravel_node.replica.events import EventLog
from ravel_node.replica.replica import Replica
from ravel_node.server.binding import snake_case
from ravel_node.server.cluster import ClusterHandlers
from ravel_node.server.errors import FATAL, is_refusal, to_rpc_status
from ravel_node.server.host import Host, Joined
from ravel_node.server.inspect import InspectHandlers
from ravel_node.server.kv import KVHandlers
from ravel_node.server.limits import Limits
from ravel_node.server.raft import RaftTransportHandlers
from ravel_node.storage.base import Identity
from ravel_node.storage.store import DiskStore
from ravelpb.v1 import cluster_pb2, inspect_pb2, kv_pb2, raft_pb2
from tests.replica.cluster import CLUSTER_ID, Node, cluster_of, patch
from tests.replica.virtual import VirtualLoop
from tests.server.anything import anything
from tests.server.fakes import FakeHost, as_host, snapshot_file

HEADERS_BYTES_MAX: Final = 8 << 10
"""What a client takes of headers and trailers: an error that is larger is lost whole."""

SERVICES: Final = {
    "KV": kv_pb2.DESCRIPTOR.services_by_name["KV"],
    "Cluster": cluster_pb2.DESCRIPTOR.services_by_name["Cluster"],
    "Inspect": inspect_pb2.DESCRIPTOR.services_by_name["Inspect"],
    "RaftTransport": raft_pb2.DESCRIPTOR.services_by_name["RaftTransport"],
}
WAIT_S: Final = 1.0
"""Of virtual time, for one call of a real replica: some wait for a leader as long as their caller does."""

ENDLESS: Final = ("Watch", "WatchStatus", "Events")
ENDLESS_S: Final = 0.02
"""Streams that go on until their caller leaves, and when this one does."""

METHODS: Final = [method for service in SERVICES.values() for method in service.methods]


def handlers_of(host: Host) -> dict[str, Any]:
    small = Limits(value_bytes_max=300, request_bytes_max=2_000)
    return {
        "KV": KVHandlers(host, small),
        "Cluster": ClusterHandlers(host),
        "Inspect": InspectHandlers(host),
        "RaftTransport": RaftTransportHandlers(host),
    }


async def _each(requests: Sequence[Message]) -> AsyncIterator[Message]:
    for request in requests:
        await asyncio.sleep(0)
        yield request


async def outcome_of(handlers: dict[str, Any], method: MethodDescriptor, requests: Sequence[Message]) -> Exception | None:
    """Make one call as the binding does. The refusal it ended in, or None; anything else passes through."""
    function = getattr(handlers[method.containing_service.name], snake_case(method.name))
    try:
        if not method.server_streaming:
            (await function(requests[0])).SerializeToString()
        else:
            async with asyncio.timeout(ENDLESS_S if method.name in ENDLESS else None) as patience:
                async with aclosing(function(_each(requests) if method.client_streaming else requests[0])) as stream:
                    async for answer in stream:
                        answer.SerializeToString()
    except TimeoutError:
        if not patience.expired():
            raise
    except Exception as error:
        if not is_refusal(error) or isinstance(error, FATAL):
            raise
        return error
    return None


def calls(method: MethodDescriptor) -> st.SearchStrategy[list[Message]]:
    return st.lists(anything(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1)


def require_sentence(error: Exception) -> None:
    """What every refusal must be to reach the person it is for."""
    status = to_rpc_status(error)
    assert status.code != code_pb2.INTERNAL
    assert len(status.message) > 10
    percent_encoded = sum(1 if 32 <= byte < 127 and byte != 37 else 3 for byte in status.message.encode())
    assert percent_encoded + status.ByteSize() * 4 // 3 < HEADERS_BYTES_MAX


WITHOUT_A_FEED: Final = [method for method in METHODS if method.name != "Watch"]
"""What can be asked of a replica that only pretends; the rest is asked of a real one."""


@pytest.mark.parametrize("method", WITHOUT_A_FEED, ids=lambda method: method.name)
def test_any_request_is_answered_or_refused(method: MethodDescriptor, tmp_path: Path) -> None:
    file = snapshot_file(tmp_path / "snapshot-9", b"x" * 3_000, 9)

    @settings(max_examples=30)
    @given(calls(method))
    def check(requests: list[Message]) -> None:
        host = FakeHost()
        host.store.files = [file]
        host.store.built = file
        error = runner.run(outcome_of(handlers_of(as_host(host)), method, requests))
        if error is not None:
            require_sentence(error)

    with asyncio.Runner() as runner:
        check()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_blank_daemon_answers_or_refuses_too(method: MethodDescriptor) -> None:
    @settings(max_examples=10)
    @given(calls(method))
    def check(requests: list[Message]) -> None:
        error = runner.run(outcome_of(handlers_of(as_host(FakeHost.blank())), method, requests))
        if error is not None:
            require_sentence(error)

    with asyncio.Runner() as runner:
        check()


# --- a real replica


class NodeHost:
    """The seat of one real replica."""

    boot_id = "b" * 16
    version = "0"
    uptime_s = 1.0
    client_connections = (0, 1)
    peer_tls = False
    is_admin = False

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def replica(self) -> Replica:
        return self._node.replica

    @property
    def machine(self) -> KVMachine:
        return self._node.machine

    @property
    def store(self) -> DiskStore:
        return self._node.store

    @property
    def identity(self) -> Identity:
        return self._node.store.identity

    @property
    def events(self) -> EventLog:
        return self._node.events

    @property
    def server(self) -> MemberRecord:
        return self._node.record

    async def bootstrap(self, cluster_id: str, cluster_name: str) -> MemberRecord:
        raise AlreadyMemberError(self.identity.cluster_id, self.identity.replica_id)

    async def join(self, via: Sequence[str], *, promote: bool, dry_run: bool) -> Joined:
        raise AlreadyMemberError(self.identity.cluster_id, self.identity.replica_id)

    async def reset(self, server_id: str, *, dry_run: bool) -> str:
        raise MembershipError("it takes part")


_HELLO: Final = raft_pb2.PeerHello(
    cluster_id=CLUSTER_ID, from_replica_id=2, to_replica_id=1, from_server_id=f"{2:032x}", from_address="peer-2"
)


@st.composite
def frames_of_a_member(draw: st.DrawFn) -> list[Message]:
    """A hello that is right, and after it any messages that claim to come from there."""
    frames: list[Message] = [raft_pb2.PeerFrame(hello=_HELLO)]
    for message in draw(st.lists(anything(raft_pb2.Message.DESCRIPTOR), max_size=4)):
        message.to = 1
        setattr(message, "from", 2)
        if draw(st.booleans()):
            message.type = draw(st.sampled_from([2, 3, 4, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18]))
        if draw(st.booleans()):
            message.term = draw(st.integers(1, 4))
        if draw(st.booleans()):
            del message.entries[:]
        message.ClearField("snapshot")
        frames.append(raft_pb2.PeerFrame(messages=[message]))
    return frames


@st.composite
def any_call(draw: st.DrawFn) -> tuple[MethodDescriptor, list[Message]]:
    exchange = SERVICES["RaftTransport"].methods_by_name["Exchange"]
    if draw(st.booleans()):
        return exchange, draw(frames_of_a_member())
    on_disk = ("SaveSnapshot", "FetchSnapshot")  # this store is in memory
    method = draw(st.sampled_from([method for method in METHODS if method.name not in on_disk]))
    return method, draw(calls(method))


@pytest.mark.parametrize("voters", [1, 2])
def test_any_list_of_calls_leaves_a_real_replica_alive(voters: int, tmp_path: Path) -> None:
    """With two voters the second one is cut off for good: what claims to come from it is the test's."""

    @settings(max_examples=15)
    @given(st.lists(any_call(), min_size=1, max_size=6))
    def check(made: list[tuple[MethodDescriptor, list[Message]]]) -> None:
        async def run() -> None:
            async with cluster_of(Path(mkdtemp(dir=tmp_path)), voters) as cluster:
                node = cluster.nodes[0]
                patch(node.watcher, "raft_event", node.watcher.events.append)  # what no correct peer sends is what we send
                if voters > 1:
                    cluster.isolate(node)
                else:
                    await cluster.leader()
                handlers = handlers_of(cast(Host, NodeHost(node)))
                for method, requests in made:
                    try:
                        async with asyncio.timeout(WAIT_S):
                            error = await outcome_of(handlers, method, requests)
                    except TimeoutError:
                        continue
                    if error is not None:
                        require_sentence(error)
                    await asyncio.sleep(0.05)
                    assert not node.watch.done(), node.watch
                assert node.replica.status().replica_id == node.id

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(run())

    check()
