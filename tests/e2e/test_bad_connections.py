"""Connections that speak garbage, half of something, or nothing, and clients that never read: others are served, and no memory is
lost to them."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ravel_node.descriptors import OWN_FILES
from ravelpb.v1 import inspect_pb2, kv_pb2
from ravelpb.v1.inspect_pb2_grpc import InspectStub
from ravelpb.v1.kv_pb2_grpc import KVStub
from tests.e2e.cluster import START_S, Cluster, Server, until
from tests.e2e.hostile import MIB, PREFACE, SETTINGS, connections, lone_server, tell_and_leave, unharmed

VALUES = 48
"""Keys with a value of 1 MiB: far more than any one client may make the server hold."""

GARBAGE = {
    "http/1": b"GET /v1/kv/a HTTP/1.1\r\nHost: ravel\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 190,
    "half a preface": PREFACE[:11],
    "preface, then noise": PREFACE + bytes(range(256)) * 20,
    "a frame that never ends": PREFACE + SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 5_000,
    "headers that are none": PREFACE + SETTINGS + b"\x00\x00\x20\x01\x04\x00\x00\x00\x01" + b"\xff" * 32,
    "endless settings": PREFACE + SETTINGS * 2_000,
    "pings": PREFACE + SETTINGS + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh" * 500,
    "streams reset at once": PREFACE
    + SETTINGS
    + b"".join(
        b"\x00\x00\x01\x01\x04" + i.to_bytes(4, "big") + b"\x82" + b"\x00\x00\x04\x03\x00" + i.to_bytes(4, "big") + b"\0\0\0\x08"
        for i in range(1, 1_001, 2)
    ),
    "nul": b"\0" * 4_096,
}


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Server]]:
    with lone_server(tmp_path_factory.mktemp("lone")) as (cluster, server):

        async def fill() -> None:
            async with cluster.client() as client:
                for number in range(VALUES):
                    await client.put(b"large/%04d" % number, bytes([number]) * MIB)

        asyncio.run(fill())
        yield cluster, server


@pytest.mark.parametrize("port", ["address", "peer_address"])
async def test_garbage_on_a_port_leaves_nothing_behind(lone: tuple[Cluster, Server], port: str) -> None:
    cluster, server = lone
    address = getattr(server, port)
    noise = random.Random(7)
    payloads = [*GARBAGE.values(), *(noise.randbytes(noise.randrange(1, 3_000)) for _ in range(20))]
    for payload in payloads:  # whatever is made once is made now
        await tell_and_leave(address, payload)
    async with unharmed(cluster, server, 12 * MIB) as watch:
        for _ in range(10):
            for payload in payloads:
                await asyncio.gather(*(tell_and_leave(address, payload) for _ in range(5)))
            await watch.look()


@pytest.mark.parametrize("say", [b"", PREFACE[:11], PREFACE, PREFACE + SETTINGS], ids=["nothing", "half", "preface", "settings"])
async def test_half_open_connections_cost_little_and_hinder_nobody(lone: tuple[Cluster, Server], say: bytes) -> None:
    cluster, server = lone
    silent, peers = connections(server.address, 500, say), connections(server.peer_address, 100, say)
    async with unharmed(cluster, server, 20 * MIB) as watch, silent, peers, cluster.client() as newcomer:
        await watch.look()
        await newcomer.put(b"newcomer", b"v")


async def test_thousands_of_idle_connections(lone: tuple[Cluster, Server]) -> None:
    cluster, server = lone
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 3_000
    if hard != resource.RLIM_INFINITY and hard < count + 1_000:
        pytest.skip(f"this system lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 1_000), hard))
    try:
        async with unharmed(cluster, server, 90 * MIB) as watch, connections(server.address, count, PREFACE + SETTINGS):
            await watch.look()
            async with cluster.client() as newcomer:
                await newcomer.put(b"newcomer", b"v")
            assert await cluster.status(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def doctor_finds(code: str, address: str) -> None:
    """A daemon counts its connections every few seconds."""

    async def found() -> bool:
        argv = [sys.executable, "-m", "ravelctl", "doctor", "-e", address]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        return code in (await process.communicate())[0].decode()

    await until(f"doctor finds {code}", found, START_S)


async def said(server: Server, *words: str) -> bool:
    """Whether a line of its log holds all of them."""
    return any(all(word in line for word in words) for line in server.log.splitlines())


async def test_few_open_files_are_kept_for_the_store(tmp_path: Path) -> None:
    """Beyond the bound connections are closed as they come; the ones that are there, and the store, do not notice."""
    cluster = Cluster(tmp_path)
    server = cluster.add("n1")
    try:
        limited = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        server.program = ["-c", limited + "from ravel_node.__main__ import main\nmain()"]
        server.start()
        await cluster.bootstrap(server)
        async with cluster.client() as client:
            await client.put(b"k", b"v")
            await until("it says how few", lambda: said(server, "daemon.few_open_files", '"limit": 256', "LimitNOFILE"), START_S)
            async with connections(server.address, 80):  # of 96
                await doctor_finds("RV515", server.address)
            async with connections(server.address, 400):
                await client.put(b"k", b"w")
                assert len(os.listdir(f"/proc/{server.pid}/fd")) < 256 - OWN_FILES // 2
            await client.put(b"k", b"x")
    finally:
        cluster.stop_all()


# --- clients that never read


async def test_scans_that_nobody_reads(lone: tuple[Cluster, Server]) -> None:
    cluster, server = lone
    async with unharmed(cluster, server, 100 * MIB) as watch, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = KVStub(channel)
        scans = [stub.Scan(kv_pb2.ScanRequest(page_keys_max=10_000)) for _ in range(20)]
        for scan in scans:
            await scan.wait_for_connection()
        await asyncio.sleep(1.0)
        for _ in range(20):
            await watch.look()
        for scan in scans:
            scan.cancel()


async def test_a_session_whose_answers_are_never_read(lone: tuple[Cluster, Server]) -> None:
    """Its values are bounded (session_bytes_max), and past that its requests are not read either."""
    cluster, server = lone
    gets = [kv_pb2.Command(get=kv_pb2.GetRequest(key=b"large/%04d" % number)) for number in range(8)]
    async with unharmed(cluster, server, 200 * MIB) as watch, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = KVStub(channel)
        calls = [stub.Session() for _ in range(4)]

        async def ask_on(call: Any) -> None:
            for number in range(2_000):
                await call.write(kv_pb2.SessionRequest(id=number, commands=gets))

        asking = [asyncio.create_task(ask_on(call)) for call in calls]
        await asyncio.sleep(2.0)
        for _ in range(20):
            await watch.look()
        for task, call in zip(asking, calls, strict=True):
            call.cancel()
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_logs_and_snapshots_that_nobody_reads(lone: tuple[Cluster, Server]) -> None:
    cluster, server = lone
    # They ask for ten logs and ten snapshots of 48 MiB each.
    async with unharmed(cluster, server, 200 * MIB) as watch, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = InspectStub(channel)
        saved = await stub.SaveSnapshot(inspect_pb2.SaveSnapshotRequest())
        name = saved.snapshot.name
        calls = [stub.ReadLog(inspect_pb2.ReadLogRequest(limit=(1 << 64) - 1, with_data=True)) for _ in range(10)]
        calls += [stub.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name=name)) for _ in range(10)]
        for call in calls:
            await call.wait_for_connection()
        await asyncio.sleep(1.0)
        await watch.look()
        for call in calls:
            call.cancel()


async def test_what_was_held_for_clients_that_are_gone_is_let_go(lone: tuple[Cluster, Server]) -> None:
    """The same abuse ten times over leaves the daemon where it was after the first time."""
    cluster, server = lone

    async def abuse() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = KVStub(channel)
            scans = [stub.Scan(kv_pb2.ScanRequest(page_keys_max=10_000)) for _ in range(10)]
            await scans[0].wait_for_connection()
            await asyncio.sleep(0.1)

    await abuse()
    async with unharmed(cluster, server, 32 * MIB):
        for _ in range(10):
            await abuse()

        async def files_of_the_daemon_only() -> bool:
            return len(os.listdir(f"/proc/{server.pid}/fd")) < 64

        await until("connections of clients that left are closed", files_of_the_daemon_only, START_S)
