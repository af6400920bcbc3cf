"""What a daemon says when it cannot start, or is asked what it cannot do."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest

from ravelctl.client import AlreadyMemberError, BlankError, ClusterClient, RavelClient, RavelError, UnreachableError
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until

pytestmark = pytest.mark.e2e


def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    first = cluster.add("n1")
    try:
        first.start()
        first.until_started()
        second = cluster.add("n2")
        second.data_dir = first.data_dir
        second.start()
        assert second.wait() == 1
        assert "is open in process" in second.log
        assert str(first.data_dir) in second.log
        assert str(first.pid) in second.log
    finally:
        cluster.stop_all()


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    first = cluster.add("n1")
    try:
        first.start()
        first.until_started()
        for flag in ("address", "peer_address"):
            second = cluster.add(f"second-{flag}")
            setattr(second, flag, getattr(first, flag))
            second.start()
            assert second.wait() == 1
            assert getattr(first, flag) in second.log
            assert "in use" in second.log
    finally:
        cluster.stop_all()


def test_a_directory_of_a_later_format_or_not_ours_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "n1")
    server.start()
    server.until_started()
    assert server.terminate() == 0
    [marker] = [path for path in server.data_dir.iterdir() if path.name == "FORMAT"]
    marker.write_text(re.sub(r"\d+", "99", marker.read_text(), count=1))
    server.start()
    assert server.wait() == 1
    assert "99" in server.log
    assert "later" in server.log

    foreign = Server(tmp_path, "foreign")
    foreign.data_dir.mkdir()
    (foreign.data_dir / "thesis.tex").write_text("mine")
    foreign.start()
    assert foreign.wait() == 1
    assert "thesis.tex" in foreign.log
    assert (foreign.data_dir / "thesis.tex").read_text() == "mine"


async def test_a_blank_daemon_says_so(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    server = cluster.add("n1")
    try:
        server.start()
        await cluster.answering(server)
        async with RavelClient([server.address], timeout_s=2.0) as client:

            async def refusal() -> BlankError | None:
                """This time is spent in any case, since somebody could bootstrap the daemon; it may not be enough."""
                try:
                    await client.put(b"k", b"v")
                except BlankError as error:
                    return error
                return None

            assert "bootstrap" in str(await until("it is refused", refusal, START_S))
    finally:
        cluster.stop_all()


async def test_an_identity_is_taken_once(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster, ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
        status = await cluster.status(cluster.servers["n1"])
        again = await client.bootstrap(cluster.endpoints[0], status.header.cluster_id, "test")
        assert again.replica.replica_id == 1
        with pytest.raises(AlreadyMemberError, match=status.header.cluster_id):
            await client.bootstrap(cluster.endpoints[0], uuid4().hex, "test")


async def test_nobody_answers(tmp_path: Path) -> None:
    server = Server(tmp_path, "nobody")
    async with RavelClient([server.address], timeout_s=5.0) as client:
        with pytest.raises(UnreachableError, match=re.escape(server.address)):
            await client.get(b"k")


async def test_a_daemon_that_hangs_does_not_answer_in_time(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster, cluster.client() as client:
        await client.put(b"k", b"v")
        cluster.servers["n1"].pause()
        try:
            with pytest.raises(RavelError):
                await client.get(b"k", timeout_s=1.0)
        finally:
            cluster.servers["n1"].resume()


async def test_a_replica_of_another_cluster_at_a_peers_address_is_refused(tmp_path: Path) -> None:
    """A data directory of another cluster, started at a member's addresses, does not get in."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_cluster(tmp_path / "a") as cluster, running_cluster(tmp_path / "b", names=["n1"]) as other:
        victim = (await cluster.followers())[0]
        victim.terminate()
        stranger = other.servers["n1"]
        stranger.terminate()
        stranger.address, stranger.peer_address = victim.address, victim.peer_address
        stranger.start()
        await other.answering(stranger)
        async with cluster.client() as client:
            await client.put(b"k", b"v")

        async def silent() -> bool:
            """The leader takes an election timeout to notice that the victim has stopped."""
            leader = await cluster.status(await cluster.leader())
            return not any(p.recent_active for p in leader.progress if p.replica_id == int(victim.name[1:]))

        await until("the leader hears nothing from that address", silent, START_S)
        await until("and says who is there", lambda: refused(cluster, victim), START_S)
        assert await silent()


async def refused(cluster: Cluster, victim: Server) -> bool:
    return any("WRONG_CLUSTER_ID" in server.log for server in cluster.servers.values() if server is not victim)
