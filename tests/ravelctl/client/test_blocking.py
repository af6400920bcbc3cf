"""The blocking face: the same answers and errors, from any thread, and an end that leaves nobody waiting."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ravelctl.client import (
    BlockingClient,
    ClosedError,
    Condition,
    DeadlineError,
    Delete,
    InvalidArgumentError,
    KeyValue,
    OutcomeUnknownError,
    Put,
    RavelClient,
    UnreachableError,
    connect,
)
from tests.ravelctl.client.fake_server import fake_cluster


class Servers:
    """A fake cluster on a loop of its own thread, so that this one may block."""

    def __init__(self) -> None:
        ready = threading.Event()

        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            self.stop = asyncio.Event()
            async with fake_cluster(2) as cluster:
                self.addresses = ",".join(replica.address for replica in cluster.replicas)
                ready.set()
                await self.stop.wait()

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        assert ready.wait(30)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.end()


@pytest.fixture
def store(servers: Servers) -> Iterator[BlockingClient]:
    with connect(servers.addresses, timeout_s=20) as store:
        for item in list(store.scan(keys_only=True)):
            store.delete(item.key)
        yield store


def test_every_call_gives_its_value(store: BlockingClient) -> None:
    revision = store.put(b"k", b"1").revision
    assert store.get(b"k") == KeyValue(b"k", b"1", revision)
    assert store.compare_and_swap(b"k", b"2", expected_revision=revision).swapped
    assert store.write([Put(b"a", b"1"), Delete(b"k")], conditions=[Condition(b"a", 0)]).done
    assert store.get_and_delete(b"a") is not None
    assert not store.delete(b"a").found
    assert store.get(b"a") is None


def test_scan_is_a_plain_iterator(store: BlockingClient) -> None:
    for number in range(250):
        store.put(b"s/%03d" % number, b"%d" % number)
    assert [item.value for item in store.scan(prefix=b"s/", page_keys_max=100)] == [b"%d" % number for number in range(250)]
    some = store.scan(prefix=b"s/", page_keys_max=10)
    assert next(some).key == b"s/000"
    some.close()  # type: ignore[attr-defined]
    assert len(list(store.scan(prefix=b"s/", limit=7))) == 7
    assert list(store.scan(prefix=b"none/")) == []


def test_watch_is_a_plain_iterator(store: BlockingClient) -> None:
    with store.watch(prefix=b"w/") as watch:
        begun = watch.revision
        store.put(b"w/1", b"a")
        store.put(b"other", b"")
        store.write([Put(b"w/2", b""), Put(b"w/3", b"")])
        seen = [next(watch) for _ in range(3)]
    assert [(event.key, event.revision - begun, event.more) for event in seen] == [
        (b"w/1", 1, False),
        (b"w/2", 3, True),
        (b"w/3", 3, False),
    ]
    with store.watch(prefix=b"w/", from_revision=begun + 1) as again:
        assert [next(again) for _ in range(3)] == seen


def test_many_threads_share_one_client(store: BlockingClient) -> None:
    with ThreadPoolExecutor(16) as threads:
        revisions = list(threads.map(lambda number: store.put(b"t/%d" % number, b"").revision, range(200)))
    assert len(set(revisions)) == 200
    assert len(list(store.scan(prefix=b"t/"))) == 200


def test_errors_are_those_of_the_client(store: BlockingClient, servers: Servers) -> None:
    with pytest.raises(InvalidArgumentError):
        store.watch(key=b"a", prefix=b"b")
    with pytest.raises(InvalidArgumentError):
        connect("nonsense")
    with pytest.raises(InvalidArgumentError):
        connect([])
    with connect("127.0.0.1:1", timeout_s=0.2) as nobody, pytest.raises((UnreachableError, DeadlineError)):
        nobody.get(b"k")


def test_after_close_every_call_says_so(servers: Servers) -> None:
    store = connect(servers.addresses)
    store.put(b"k", b"v")
    scan, watch = store.scan(), store.watch()
    store.close()
    store.close()
    for use in (lambda: store.get(b"k"), lambda: next(scan), lambda: next(watch), store.watch):
        with pytest.raises(ClosedError):
            use()
    watch.close()
    assert not store._thread.is_alive()


def test_closing_wakes_every_thread_that_waits(servers: Servers) -> None:
    store = connect(servers.addresses, timeout_s=60)
    found: list[BaseException] = []
    watches = [store.watch() for _ in range(3)]

    def wait(number: int) -> None:
        try:
            next(watches[number])
        except ClosedError as error:
            found.append(error)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    store.close()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3


def test_threads_that_call_while_another_closes_all_get_an_answer(servers: Servers) -> None:
    for _ in range(5):
        store = connect(servers.addresses, timeout_s=20)

        def work(number: int, store: BlockingClient = store) -> int:
            done = 0
            try:
                while True:
                    store.put(b"race/%d" % number, b"")
                    done += 1
            except (ClosedError, OutcomeUnknownError):
                return done

        with ThreadPoolExecutor(8) as threads:
            working = [threads.submit(work, number) for number in range(8)]
            time.sleep(0.1)
            store.close()
            assert all(task.result(30) >= 0 for task in working)


async def test_inside_a_running_loop_it_says_what_to_use(servers: Servers) -> None:
    with pytest.raises(RuntimeError, match="RavelClient"):
        connect(servers.addresses)
    store = await asyncio.to_thread(connect, servers.addresses)
    with pytest.raises(RuntimeError, match="RavelClient"):
        store.get(b"k")
    assert (await asyncio.to_thread(store.put, b"k", b"v")).revision
    await asyncio.to_thread(store.close)


def test_ctrl_c_ends_the_wait_and_the_program(servers: Servers) -> None:
    program = (
        "import sys; from ravelctl.client import connect\n"
        "with connect(sys.argv[1]) as store:\n"
        "    with store.watch() as watch:\n"
        "        try:\n"
        "            print('waiting', flush=True)\n"
        "            next(watch)\n"
        "        except KeyboardInterrupt:\n"
        "            print('interrupted', store.put(b'after', b'').revision > 0, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, servers.addresses], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        os.kill(child.pid, signal.SIGINT)
        assert child.stdout.readline() == "interrupted True\n"
        assert child.wait(30) == 0


def test_a_program_that_forgets_to_close_ends_all_the_same(servers: Servers) -> None:
    program = "import sys; from ravelctl.client import connect; print(connect(sys.argv[1]).put(b'k', b'v').revision > 0)"
    done = subprocess.run([sys.executable, "-c", program, servers.addresses], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_it_has_every_call_of_the_client_with_the_same_arguments() -> None:
    for name, call in inspect.getmembers(RavelClient, inspect.isfunction):
        if name.startswith("_"):
            continue
        blocking = getattr(BlockingClient, name)
        assert list(inspect.signature(blocking).parameters.items()) == list(inspect.signature(call).parameters.items()), name
