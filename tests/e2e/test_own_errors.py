"""Daemons with an error planted in their own code: each is logged, and either made good or the end of the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.cluster import START_S, running_cluster, until

AFTER_THE_START = """
import os
from ravel_node.transport import peer
from ravel_node.__main__ import main

def planted(name, error):
    original = getattr(peer.Peer, name)
    def method(self, *arguments):
        if os.path.exists(os.environ["PLANTED"]):
            os.unlink(os.environ["PLANTED"])
            raise error
        return original(self, *arguments)
    setattr(peer.Peer, name, method)

"""


async def test_an_error_in_the_stream_to_a_peer_is_logged_and_the_peer_is_dialled_again(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        assert leader.terminate() == 0
        plant = tmp_path / "plant"
        leader.program = ["-c", f"{AFTER_THE_START}planted('_next_frame', KeyError('planted'))\nmain()"]
        leader.environment = {"PLANTED": str(plant)}
        leader.start()
        await cluster.caught_up(leader)
        plant.touch()

        async def told() -> bool:
            return "transport.peer_failed" in leader.log

        await until("the error is in the log", told, START_S)
        assert "KeyError: 'planted'" in leader.log
        async with cluster.client() as client:
            await client.put(b"k", b"v")
        await cluster.settled()


async def test_an_error_outside_of_the_stream_stops_the_replica_with_its_reason(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        broken, other = await cluster.followers()
        assert broken.terminate() == 0
        plant = tmp_path / "plant"
        broken.program = ["-c", f"{AFTER_THE_START}planted('_empty_queues', KeyError('planted'))\nmain()"]
        broken.environment = {"PLANTED": str(plant)}
        broken.start()
        await cluster.caught_up(broken)
        plant.touch()
        other.kill()  # so that the stream to it ends
        assert await asyncio.to_thread(broken.wait, START_S) == 1
        assert "KeyError: 'planted'" in broken.log, "with its traceback"
        assert "daemon.stopped_itself" in broken.log.splitlines()[-1]
        assert "planted" in broken.log.splitlines()[-1]
