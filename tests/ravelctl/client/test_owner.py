"""A client used in another process or event loop than its own: every call says so at once, where it used to hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ravelctl.client import (
    AdminClient,
    ClientMisusedError,
    ClusterClient,
    InspectClient,
    LocalReason,
    RavelClient,
    RavelError,
    SlotsClient,
)
from ravelctl.client.services.replica_reader import ReplicaReader
from ravelctl.client.types import Consistency
from tests.ravelctl.client.scripted import Cluster, Network
from tests.ravelctl.client.test_cluster_id import serve_all
from tests.ravelctl.client.test_routing_times import ADMIN, World

A = "a:1"
AT_ONCE_S = 5.0
"""Far less than the timeout of the calls, and enough for a busy machine."""

Use = Callable[[Any], Awaitable[Any]]

USES: dict[str, tuple[Callable[[Network], Any], dict[str, Use]]] = {
    "RavelClient": (
        lambda network: RavelClient([A], channel_factory=network, timeout_s=600.0),
        {
            "put": lambda client: client.put(b"k", b"v"),
            "get": lambda client: client.get(b"k"),
            "stale get": lambda client: client.get(b"k", consistency=Consistency.STALE),
            "scan": lambda client: anext(client.scan()),
            "watch": lambda client: client.watch().started(),
        },
    ),
    "ClusterClient": (
        lambda network: ClusterClient([A], channel_factory=network, timeout_s=600.0),
        {
            "status": lambda client: client.status(A),
            "leave": lambda client: client.leave([1]),
            "watch_status": lambda client: anext(client.watch_status(A)),
        },
    ),
    "AdminClient": (
        lambda network: AdminClient([A], channel_factory=network, timeout_s=600.0),
        {"directory": lambda client: client.directory(), "rebalance": lambda client: anext(client.rebalance())},
    ),
    "InspectClient": (
        lambda network: InspectClient(channel_factory=network, timeout_s=600.0),
        {"store_stats": lambda client: client.store_stats(A), "read_log": lambda client: anext(client.read_log(A))},
    ),
    "SlotsClient": (
        lambda network: SlotsClient([A], channel_factory=network, timeout_s=600.0),
        {"ownership": lambda client: client.ownership(), "read": lambda client: anext(client.read([1]))},
    ),
    "ReplicaReader": (
        lambda network: ReplicaReader(channel_factory=network, timeout_s=600.0),
        {"get": lambda client: client.get(A, b"k", Consistency.STALE)},
    ),
}
CALLS = [(client, use, call) for client, (_, uses) in USES.items() for use in uses for call in uses]


def network() -> Network:
    made = Network(A)
    Cluster(made[A])
    serve_all(made[A])
    return made


async def misused(call: Awaitable[Any]) -> None:
    """The call raises at once, with a sentence that says what to do."""
    began = time.monotonic()
    with pytest.raises(
        ClientMisusedError, match=r"belongs to the event loop of its first call.*one client for each asyncio\.run"
    ):
        async with asyncio.timeout(60):
            await call
    assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize(("client", "first", "then"), CALLS, ids="-".join)
def test_on_a_second_event_loop_every_call_says_so(client: str, first: str, then: str) -> None:
    make, uses = USES[client]
    made = make(network())

    async def use(call: Use) -> None:
        await call(made)

    asyncio.run(use(uses[first]))
    asyncio.run(misused(uses[then](made)))
    asyncio.run(made.close())  # there is nothing to close here, and no error


def test_a_client_is_bound_by_its_first_call_and_not_by_being_made() -> None:
    client = RavelClient([A], channel_factory=network())

    async def use() -> None:
        async with client:
            await client.put(b"k", b"v")

    asyncio.run(use())


def test_what_was_begun_on_the_first_loop_says_so_on_the_second() -> None:
    client = RavelClient([A], channel_factory=network(), timeout_s=600.0)
    watch = client.watch()
    with asyncio.Runner() as runner:
        runner.run(watch.started())
        asyncio.run(misused(watch.__anext__()))
        runner.run(client.close())


def test_a_routed_client_says_so_too() -> None:
    client = RavelClient(admin=[ADMIN], channel_factory=World().network, timeout_s=600.0)
    asyncio.run(client.put(b"k", b"v"))
    for call in (
        client.put(b"k", b"v"),
        client.get(b"k"),
        client.prepare(),
        anext(client.scan()),
        client.watch(key=b"k").started(),
    ):
        asyncio.run(misused(call))
    asyncio.run(client.close())


def test_it_is_an_error_of_the_client_like_any_other() -> None:
    error = ClientMisusedError("x")
    assert isinstance(error, RavelError)
    assert error.reason is LocalReason.MISUSED


# --- fork, in a process of its own: a real server, real channels

PROGRAM = """
import asyncio, os, sys, time
from ravelctl.client import *
from ravelpb.v1 import inspect_pb2
from tests.ravelctl.client.fake_server import fake_cluster

AT_ONCE_S = 5.0
reading, writing = os.pipe()
server = os.fork()  # before anything of gRPC is in use
if server == 0:
    async def serve():
        async with fake_cluster(1) as cluster:
            cluster.replicas[0].answers["StoreStats"] = lambda request: inspect_pb2.StoreStatsResponse()
            os.write(writing, (cluster.replicas[0].address + "\\n").encode())
            await asyncio.sleep(600)
    try:
        asyncio.run(serve())
    finally:
        os._exit(0)
address = os.fdopen(reading).readline().strip()

async def misused(calls):
    for name, call in calls.items():
        began = time.monotonic()
        try:
            async with asyncio.timeout(60):
                await call()
        except ClientMisusedError as error:
            took = time.monotonic() - began
            words = "process" in error.message and "make the client in the process that uses it" in error.next_step
            print(name, "ok" if took < AT_ONCE_S and words else (took, str(error)), flush=True)
        else:
            print(name, "did not raise", flush=True)

parent = os.getpid()

def in_child(work, orderly=False):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            sys.stdout.flush()
            if not orderly:
                os._exit(0)
        sys.exit(0)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            print("child hangs", flush=True)
            return
        time.sleep(0.02)
    if ended[1] != 0:
        print("child ended with", ended[1], flush=True)

try:
    exec(sys.stdin.read())
finally:
    if os.getpid() == parent:
        os.kill(server, 9)
        os.waitpid(server, 0)
"""

ASYNC = """
loop = asyncio.new_event_loop()
keys = RavelClient([address], timeout_s=600)
cluster, admin = ClusterClient([address], timeout_s=600), AdminClient([address], timeout_s=600)
inspect = InspectClient(timeout_s=600)

async def use():
    await keys.put(b"k", b"v")
    await cluster.status(address)
    await inspect.store_stats(address)
    try:
        await admin.directory()
    except NotAdminError:
        pass

loop.run_until_complete(use())
calls = {
    "put": lambda: keys.put(b"k", b"w"), "get": lambda: keys.get(b"k"), "scan": lambda: anext(keys.scan()),
    "watch": lambda: keys.watch().started(), "status": lambda: cluster.status(address), "leave": lambda: cluster.leave([1]),
    "directory": lambda: admin.directory(), "stats": lambda: inspect.store_stats(address),
}
in_child(lambda: asyncio.run(misused(calls)))
in_child(lambda: loop.run_until_complete(misused({"the same loop": calls["put"]})))
in_child(lambda: asyncio.run(misused({"a new client": lambda: RavelClient([address], timeout_s=600).put(b"k", b"x")})))
print("parent", loop.run_until_complete(keys.put(b"k", b"y")).revision)
for client in (keys, cluster, admin, inspect):
    loop.run_until_complete(client.close())
"""

BLOCKING = """
store = connect(address, timeout_s=600)
store.put(b"k", b"v")
scan, watch = store.scan(), store.watch()

def blocking(calls):
    async def run(call):
        return call()
    for name, call in calls.items():
        began = time.monotonic()
        try:
            call()
        except ClientMisusedError as error:
            words = "process" in error.message and "make the client in the process that uses it" in error.next_step
            print(name, "ok" if time.monotonic() - began < AT_ONCE_S and words else str(error), flush=True)
        else:
            print(name, "did not raise", flush=True)

in_child(lambda: blocking({
    "put": lambda: store.put(b"k", b"w"), "scan": lambda: next(scan), "watch": lambda: next(watch),
    "connect": lambda: connect(address, timeout_s=600),
}))
in_child(lambda: (store.close(), print("closing does nothing", flush=True)))
in_child(lambda: print("exits", flush=True), orderly=True)
print("parent", store.put(b"k", b"y").revision)
store.close()
"""


def run_forking(work: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=work, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_after_a_fork_every_call_says_so_and_the_parent_goes_on() -> None:
    names = ["put", "get", "scan", "watch", "status", "leave", "directory", "stats", "the same loop", "a new client"]
    assert run_forking(ASYNC) == [*(f"{name} ok" for name in names), "parent 2"]


def test_after_a_fork_the_blocking_client_says_so_too() -> None:
    lines = run_forking(BLOCKING)
    assert lines == ["put ok", "scan ok", "watch ok", "connect ok", "closing does nothing", "exits", "parent 2"]
