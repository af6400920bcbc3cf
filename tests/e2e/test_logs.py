"""Logs and stores of real daemons, asked and read from their directories, while they run, hang or are dead."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import START_S, STEADY, running_cluster, until
from tests.e2e.test_cli import ravelctl
from tests.ravelctl.offline.support import edit_log, flip_log_byte

pytestmark = pytest.mark.e2e


async def test_logs_of_live_hung_and_dead_daemons(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, flags=STEADY) as cluster:  # the log grows by what is written here and by nothing else
        async with cluster.client() as client:
            for number in range(30):
                await client.put(b"orders/%d" % number, b"v")
            await client.delete(b"users/1")
        follower, other = await cluster.followers()
        for server in cluster.servers.values():
            await cluster.caught_up(server)

        shown = (await ravelctl(cluster, "log", "show", "--prefix", "orders/7", "-o", "json")).json()
        assert "orders/7" in shown["entries"][0]["commands"][0]
        index = int(shown["entries"][0]["index"])
        for name in cluster.servers:
            verified = await ravelctl(cluster, "log", "verify", "--replica", name)
            assert verified.status == 0, verified.out + verified.err
            checked = await ravelctl(cluster, "store", "check", "--replica", name)
            assert checked.status == 0, checked.out + checked.err
        same = await ravelctl(cluster, "log", "diff", follower.name, str(other.data_dir))
        assert same.status == 0, same.out + same.err

        # The directory of a daemon that runs, and of one that hangs.
        for pause in (False, True):
            if pause:
                other.pause()
            offline = await ravelctl(
                cluster, "log", "show", "--data-dir", str(other.data_dir), "--prefix", "orders/7", "-o", "json",
                RAVELCTL_ENDPOINTS="127.0.0.1:1",
            )  # fmt: skip
            assert offline.json()["entries"] == shown["entries"]
            assert (await ravelctl(cluster, "log", "verify", "--data-dir", str(other.data_dir))).status == 0
            assert (await ravelctl(cluster, "store", "check", "--data-dir", str(other.data_dir))).status == 0
            assert (await ravelctl(cluster, "store", "stats", "--data-dir", str(other.data_dir))).status == 0
        other.resume()

        # Compaction by hand, which leaves what followers need; nothing is lost, and a follower goes on.
        leader = await cluster.leader()
        words = ["store", "compact", "--keep", "3", "--replica", leader.name, "-o", "json"]
        planned = await ravelctl(cluster, *words, "--dry-run")
        assert int(planned.json()["dropped"]) > 0
        assert (await ravelctl(cluster, *words, "--dry-run")).json() == planned.json()
        done = await ravelctl(cluster, *words)
        assert done.status == 0, done.err
        assert int(done.json()["dropped"]) > 0
        assert done.json()["first_index"] == planned.json()["first_index"]
        assert (await ravelctl(cluster, "log", "verify", "--replica", leader.name)).status == 0
        async with cluster.client() as client:
            assert await client.get(b"orders/7") is not None
            await client.put(b"orders/30", b"v")

        # A byte that flips on the disk of one that lives.
        flip_log_byte(follower.data_dir, index)
        differs = await ravelctl(cluster, "log", "diff", other.name, follower.name, "-o", "json")
        assert (differs.status, differs.json()["index"]) == (8, str(index)), differs.err
        flip_log_byte(follower.data_dir, index)

        # A dead one, with a flipped byte and then with a forged entry: the first index that differs is named.
        follower.terminate()
        flip_log_byte(follower.data_dir, index)
        differs = await ravelctl(cluster, "log", "diff", str(follower.data_dir), other.name, "-o", "json")
        assert (differs.status, differs.json()["index"]) == (8, str(index)), differs.err
        flip_log_byte(follower.data_dir, index)
        edit_log(follower.data_dir, index + 2, lambda entry: entry._replace(data=entry.data[:-1] + b"w"))
        differs = await ravelctl(cluster, "log", "diff", other.address, str(follower.data_dir), "-o", "json")
        assert (differs.status, differs.json()["index"]) == (8, str(index + 2)), differs.err


async def test_a_log_is_followed_through_a_restart(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        followed = (await cluster.followers())[0]
        command = [sys.executable, "-m", "ravelctl", "log", "follow", "--replica", followed.name, "--prefix", "k"]
        environment = {**os.environ, "RAVELCTL_ENDPOINTS": followed.address}
        with (tmp_path / "out").open("wb") as out:
            following = subprocess.Popen([*command, "--limit", "3"], stdout=out, stderr=out, env=environment)  # noqa: ASYNC220
        try:

            async def seen(text: str) -> None:
                async def there() -> bool:
                    assert following.poll() in (None, 0), (tmp_path / "out").read_text()
                    return text in (tmp_path / "out").read_text()

                await until(f"{text!r} is printed", there, START_S)

            async with cluster.client() as client:
                await client.put(b"k1", b"v")
                await seen("k1")
                followed.kill()
                await seen("does not answer")
                await client.put(b"k2", b"v")
                followed.start()
                await cluster.answering(followed)
                await seen("k2")
                await client.put(b"k3", b"v")
                await seen("k3")
            assert await asyncio.to_thread(following.wait, START_S) == 0
            lines = (tmp_path / "out").read_text().splitlines()
            assert [line.split()[4] for line in lines if "bytes" in line] == ["k1", "k2", "k3"]
        finally:
            if following.poll() is None:
                following.kill()
            following.wait()
