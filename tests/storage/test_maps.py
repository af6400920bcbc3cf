"""Maps: large enough from the beginning that no flush waits for a copy, and smaller where the system refuses so much."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from ravel_node.config import ServerConfig, StorageConfig
from ravel_node.daemon import _store_options
from ravel_node.forms import Address
from ravel_node.storage.engine import ReadTxn
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.store import StoreOptions, map_bytes_for, open_store
from tests.storage.support import NEVER, WAIT_S, append, apply, at, bootstrap, until

QUOTA: Final = 24 << 20
ROOT: Final = Path(__file__).resolve().parents[2]


def options_of(path: Path, storage: StorageConfig, events: list[str]) -> StoreOptions:
    """What a daemon gives its store."""
    client, peer = Address("127.0.0.1", 7400), Address("127.0.0.1", 7401)
    config = ServerConfig(
        data_dir=path, name="n1", listen=client, peer_listen=peer, advertise=client, peer_advertise=peer, storage=storage
    )
    return _store_options(config, lambda event, fields: events.append(event))


def test_maps_follow_the_quota_and_the_bound_of_the_log(tmp_path: Path) -> None:
    for quota in (2 << 20, 8 << 30, 16 << 40):
        options = options_of(tmp_path, StorageConfig(db_size_max=quota, log_retain_bytes_max=quota // 2), [])
        assert options.state_map_bytes >= 2 * quota + options.unflushed_bytes_max
        assert quota + (1 << 29) <= options.raft_map_bytes < options.state_map_bytes


async def test_a_flush_up_to_the_quota_waits_for_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy reads through the map for as long as the disk takes. While it did, a flush that needed a larger map waited."""
    monkeypatch.setattr("ravel_node.storage.store.MAP_ROOM_BYTES", 0)  # it would be enough for so small a quota
    events: list[str] = []
    options = options_of(tmp_path, StorageConfig(db_size_max=QUOTA), events)
    store = await open_store(tmp_path / "d", replace(options, flush_interval_s=3_600.0))
    await bootstrap(store)
    await append(store, 2, 100)
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(txn: ReadTxn) -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(WAIT_S)

    inspections = [asyncio.create_task(env.inspect(slow)) for env in (store._state.environment, store._log.environment)]
    try:
        await began.wait()
        for index in range(2, 2 + QUOTA // (1 << 20)):
            apply(store, index, {b"key %d" % index: b"v" * (1 << 20)})
            await asyncio.wait_for(store.flush(), WAIT_S)
        assert store.db_used_bytes >= QUOTA
        for index in range(
            store.applied.index + 1, store.applied.index + 13
        ):  # what is overwritten stays until the copy has ended
            apply(store, index, {b"key 2": b"w" * (1 << 20)})
            await asyncio.wait_for(store.flush(), WAIT_S)
        assert not any(inspection.done() for inspection in inspections)
    finally:
        go_on.set()
        await asyncio.gather(*inspections)
    assert events == []
    await store.close()


async def test_a_size_that_no_machine_has_is_halved_until_it_fits(tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, object]]] = []
    engine = LmdbEngine(lambda event, fields: events.append((event, fields)))
    (tmp_path / "env").mkdir()
    env = await engine.open(tmp_path / "env", {"kv": False}, 1 << 70)
    ((event, fields),) = events
    assert (event, fields["environment"], fields["wanted"]) == ("store.map_smaller", "env", 1 << 70)
    assert 64 << 20 <= env.stats().map_size < 1 << 48
    assert fields["map_size"] == env.stats().map_size
    await env.write(lambda txn: txn.put("kv", b"a", b"1"))
    await env.close()
    env = await engine.open(tmp_path / "env", {"kv": False}, 128 << 20)
    assert (env.stats().map_size, len(events)) == (128 << 20, 1), "a smaller map is as good"
    await env.close()
    await engine.close()


LIMITED: Final = """
import asyncio, resource, sys
from pathlib import Path
from tests.storage import limited_memory

asyncio.run(getattr(limited_memory, sys.argv[1])(Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    "what",
    [
        "opens_smaller",
        "opens_with_the_largest_half_that_fits",
        "grows_by_less",
        "fails_where_nothing_is_left",
        "is_read_with_less",
    ],
)
def test_under_a_limit_of_address_space(tmp_path: Path, what: str) -> None:
    """`ulimit -v`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "protos"), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "as it should\n"), done.stderr


# --- congestion


async def test_a_store_tells_since_when_it_is_congested(tmp_path: Path) -> None:
    options = replace(NEVER, segment_bytes_max=1_000, unflushed_bytes_max=3_000)
    store = await open_store(tmp_path / "d", options)
    await bootstrap(store)
    await append(store, 2, 200)
    loop = asyncio.get_running_loop()
    assert store.congested_since is None
    before = loop.time()
    index = 2
    while not store.congested:
        apply(store, index, {b"k%d" % index: b"v" * 400})
        index += 1
    since = store.congested_since
    assert since is not None
    assert before <= since <= loop.time()
    apply(store, index, {b"k": b"v" * 1_000})
    assert store.congested_since == since, "it began then, however much comes after that"
    await until(lambda: not store.congested)
    assert store.congested_since is None
    await store.flush()
    assert store.flushed == at(index)
    while not store.congested:
        index += 1
        apply(store, index, {b"k%d" % index: b"v" * 400})
    assert store.congested_since is not None
    assert store.congested_since > since
    await store.close()


def test_a_map_is_larger_than_what_it_may_hold() -> None:
    assert [map_bytes_for(size) for size in (0, 1 << 30)] == [1 << 30, 3 << 30]
