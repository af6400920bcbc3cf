"""Watches over many real clusters while slots move, clusters are added and emptied, and leaders are killed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from ravelctl.client import (
    CompactedError,
    OutcomeUnknownError,
    RavelClient,
    RavelError,
    SlotMovingError,
    WatchEvent,
    WrongClusterError,
)
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, START_S, Server, until
from tests.e2e.test_adopt import admin, restored
from tests.e2e.test_cli import ravelctl
from tests.e2e.test_rebalance import add_cluster, kill_now_and_then, rebalance, rest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

KEYS = tuple(b"watched/%d" % number for number in range(64))
WRITERS = 4
Change = tuple[bytes | None, int]  # the value, None: deleted, and the revision


class Writers:
    """Tasks that put and delete without pause, each in keys of its own. Every value is put once."""

    def __init__(self, admins: list[str]) -> None:
        self.client = RavelClient(admin=admins, timeout_s=CALL_S)
        self.acknowledged: dict[bytes, list[Change]] = defaultdict(list)
        self.tried: dict[bytes, set[bytes]] = defaultdict(set)
        self.done = 0
        self._stopping = False
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        rng, number = Random(writer), 0
        while not self._stopping:
            number += 1
            key = rng.choice(KEYS[writer::WRITERS])
            try:
                if rng.random() < 0.8:
                    await self.put(key, b"%d" % number)
                elif (deleted := await self.client.delete(key)).found:
                    self.acknowledged[key].append((None, deleted.revision))
            except OutcomeUnknownError:
                pass
            except RavelError:
                await asyncio.sleep(0.05)
            self.done += 1
            await asyncio.sleep(rng.uniform(0.0, 0.02))

    async def put(self, key: bytes, value: bytes) -> None:
        self.tried[key].add(value)
        self.acknowledged[key].append((value, (await self.client.put(key, value)).revision))

    async def mark(self, name: bytes) -> None:
        """Put this value to every key."""
        for key in KEYS:
            await until(f"{name!r} is put", lambda key=key: self._marked(key, name), START_S)  # type: ignore[misc]

    async def _marked(self, key: bytes, name: bytes) -> bool:
        try:
            await self.put(key, name)
        except OutcomeUnknownError:
            self.tried[key].add(name + b"'")
            await self.put(key, name + b"'")
        return True

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()


class Watcher:
    """What one watch was told, key by key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: dict[bytes, list[Change]] = defaultdict(list)

    def take(self, key: bytes, value: bytes | None, revision: int) -> None:
        self.told[key].append((value, revision))

    def has(self, mark: bytes) -> bool:
        return all(any(value in (mark, mark + b"'") for value, _ in self.told[key]) for key in KEYS)

    def check(self, writers: Writers) -> None:
        for key in KEYS:
            told = self.told[key]
            revisions = [revision for _, revision in told]
            assert revisions == sorted(set(revisions)), f"{self.name}: {key!r} twice, or out of order"
            missing = set(writers.acknowledged[key]) - set(told)
            assert not missing, f"{self.name}: {key!r} was not told of {missing}"
            strange = {value for value, _ in told if value is not None} - writers.tried[key]
            assert not strange, f"{self.name}: {key!r} never had {strange}"


async def follow(watcher: Watcher, admins: list[str]) -> None:
    """One watch all the time."""
    async with RavelClient(admin=admins, timeout_s=CALL_S) as client, client.watch(prefix=b"watched/") as watch:
        async for event in watch:
            watcher.take(event.key, event.value, event.revision)


async def follow_in_pieces(watcher: Watcher, admins: list[str], pieces: list[int]) -> None:
    """Watches that resume where the one before was, by clients of their own."""
    position: str | None = None
    rng = Random(11)
    while True:
        async with (
            RavelClient(admin=admins, timeout_s=CALL_S) as client,
            client.watch(prefix=b"watched/", after=position) as watch,
        ):
            held: WatchEvent | None = None  # told for good once the next one is asked for
            for _ in range(rng.randint(1, 200)):
                event = await anext(watch)
                if held is not None:
                    watcher.take(held.key, held.value, held.revision)
                held = event
                position = watch.position
        pieces.append(1)


async def follow_by_command(watcher: Watcher, admins: list[str]) -> None:
    command = [sys.executable, "-m", "ravelctl", "kv", "watch", "--prefix", "watched/", "-o", "json", "-e", ",".join(admins)]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        while line := await child.stdout.readline():
            event = json.loads(line)
            value = event["value"].encode() if event["event"] == "put" else None
            watcher.take(event["key"].encode(), value, int(event["revision"]))
        raise AssertionError(f"ravelctl ended: {(await child.stderr.read()).decode()}")
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@asynccontextmanager
async def writing(system: System) -> AsyncIterator[Writers]:
    found = Writers(system.admins.endpoints)
    try:
        yield found
    finally:
        await found.close()


async def start_those_that_were_killed(system: System) -> None:
    for server in [*system.admins.servers.values(), *system.servers.servers.values()]:
        if not server.running:
            if server.verb == "admin":
                server.start()
            else:
                system.start(server.name)


async def test_watches_miss_nothing_while_clusters_come_and_go_and_leaders_are_killed(tmp_path: Path) -> None:
    async with running_system(tmp_path, ("a1", "a2", "a3")) as system:
        await add_cluster(system, "one", "n1", "n2", "n3")
        watchers = [Watcher("all the time"), Watcher("in pieces"), Watcher("ravelctl")]
        pieces: list[int] = []
        admins = system.admins.endpoints
        following = [
            asyncio.create_task(follow(watchers[0], admins)),
            asyncio.create_task(follow_in_pieces(watchers[1], admins, pieces)),
            asyncio.create_task(follow_by_command(watchers[2], admins)),
        ]

        async def all_told(mark: bytes, writers: Writers) -> None:
            """Every watch is told of what is put to each key from now on: none waits for a connection any more."""
            await writers.mark(mark)

            async def told() -> bool:
                for task in following:
                    if task.done():
                        task.result()
                return all(watcher.has(mark) for watcher in watchers)

            for number in range(1000):  # those in pieces hold the newest one back until another one comes
                if await told():
                    return
                await writers.put(KEYS[number % len(KEYS)], b"%s after %d" % (mark, number))
                await asyncio.sleep(0.1)
            raise AssertionError([(watcher.name, [key for key in KEYS if not watcher.told[key]]) for watcher in watchers])

        async with writing(system) as writers, system.client(timeout_s=CALL_S) as admin_client:
            try:
                while not all(watcher.told for watcher in watchers):
                    await asyncio.sleep(0.1)
                for watcher in watchers:  # they began at some moment: what was acknowledged before is not theirs
                    watcher.told.clear()
                await writers.mark(b"begin")
                begun = {key: changes[-1][1] for key, changes in writers.acknowledged.items()}
                await all_told(b"begun", writers)

                await add_cluster(system, "two", "n4")
                await rebalance(admin_client)
                await rest(system)
                await all_told(b"spread", writers)

                everyone: list[Server] = [*system.admins.servers.values(), *system.servers.servers.values()]
                killing = asyncio.create_task(kill_now_and_then(system, everyone, Random(3)))
                await rebalance(admin_client, "one")
                await asyncio.sleep(4.0)
                killing.cancel()
                await asyncio.gather(killing, return_exceptions=True)
                await start_those_that_were_killed(system)
                await rest(system, "one")
                await all_told(b"emptied", writers)

                await add_cluster(system, "three", "n5")
                await admin_client.set_cluster("one", emptying=False)
                await rebalance(admin_client)
                await rest(system)
                await all_told(b"back", writers)
                await writers.stop()
                await all_told(b"end", writers)
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
        for changes in (writers.acknowledged, *(watcher.told for watcher in watchers)):
            for key in KEYS:
                changes[key] = [change for change in changes[key] if change[1] >= begun[key]]
        held = watchers[1]
        for watcher in watchers:
            if watcher is held:
                for key in KEYS:  # which end before the newest changes
                    last = max((revision for _, revision in watcher.told[key]), default=0)
                    writers.acknowledged[key] = [change for change in writers.acknowledged[key] if change[1] <= last]
        order = [watchers[0], watchers[2], watchers[1]]
        for watcher in order:
            watcher.check(writers)
        assert len(pieces) > 3
        assert writers.done > 200


async def test_a_watch_of_one_cluster_ends_with_an_error_when_slots_move(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        await add_cluster(system, "one", "n1")
        await add_cluster(system, "two", "n2")
        events: list[bytes] = []
        async with (
            RavelClient([system.servers.servers["n1"].address], timeout_s=CALL_S) as alone,
            RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client,
            alone.watch(prefix=b"watched/") as watch,
            system.client(timeout_s=CALL_S) as admin_client,
        ):
            for key in KEYS[:5]:
                await client.put(key, b"1")
            await rebalance(admin_client)
            await rest(system)

            async def read() -> None:
                while True:
                    events.append((await anext(watch)).key)

            with pytest.raises(WrongClusterError, match="slots of this cluster have moved"):
                async with asyncio.timeout(START_S):
                    await read()
        assert events == list(KEYS[:5])


async def test_what_came_back_out_of_backups_shows_no_old_keys_and_ends_watches(tmp_path: Path) -> None:
    """Two clusters come back out of backups of before a rebalance: half of the slots are nobody's, and old keys are there."""
    async with running_system(tmp_path) as system:
        one = system.start("d1")
        await system.seated("default", "d1")
        two = system.start("o1", "--new-cluster", "orders")
        await system.seated("orders", "o1")
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            for key in KEYS:
                await client.put(key, b"before")
            for server in (one, two):
                file = str(tmp_path / f"{server.name}.snapshot")
                saved = await ravelctl(system.servers, "snapshot", "save", "--file", file, "-e", server.address)
                assert saved.status == 0, saved.err
            moved = await admin(system, "rebalance", "--apply", "--yes")
            assert moved.status == 0, moved.err
            for key in KEYS:
                await client.put(key, b"after")
            async with client.watch(prefix=b"watched/") as watch, client.watch(key=KEYS[0]) as of_key:
                position = watch.position
                await adopted(system, "orders", two, tmp_path, "o2")
                with pytest.raises(CompactedError, match="replaced or removed"):
                    async with asyncio.timeout(START_S):
                        await anext(watch)
                await adopted(system, "default", one, tmp_path, "d2")
                with pytest.raises(CompactedError, match="replaced or removed"):
                    async with asyncio.timeout(START_S):
                        await anext(of_key)
            with pytest.raises(CompactedError, match="replaced or removed"):
                await client.watch(prefix=b"watched/", after=position).started()

            async def scanned() -> str:
                """Why the keys cannot be listed. Until both are found at their new addresses, calls fail otherwise."""
                try:
                    found = [item async for item in client.scan(prefix=b"watched/", timeout_s=5.0)]
                except SlotMovingError as refused:
                    return str(refused)
                raise AssertionError(f"keys were shown: {found[:3]}")

            said = await until("the scan is refused", scanned, START_S)
            assert "which belongs to orders by version" in said
            assert "default believes to own it, and its keys may be old" in said
            assert "ravelctl admin reconcile" in said


async def adopted(system: System, cluster: str, old: Server, folder: Path, name: str) -> None:
    """Put a server with the state of the snapshot of `old` into the place of its cluster."""
    old_id = (await system.servers.status(old)).header.cluster_id
    old.kill()
    new = await restored(system, folder / f"{old.name}.snapshot", name)
    system.start(name)
    await system.servers.answering(new)
    done = await admin(system, "adopt", cluster, new.address, "--yes", "--confirm", old_id)
    assert done.status == 0, done.err
    await system.seated(cluster, name)
