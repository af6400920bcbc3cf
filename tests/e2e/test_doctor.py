"""Faults made in real clusters, and the code that doctor gives for each; on a healthy one it is silent.

The faults share clusters, in an order in which each is there without the one before, or makes it worse.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from ravelctl.cli.app import App
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.client import ClusterClient, InspectClient, RavelClient
from ravelctl.diagnosis.gather import gather
from ravelctl.diagnosis.judgement import Diagnosis, diagnose
from ravelctl.diagnosis.seen import Seen
from ravelctl.offline.doctor import look
from ravelpb.v1.common_pb2 import ServerRef
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until
from tests.e2e.ports import free_ports
from tests.faults.proxy import Network
from tests.ravelctl.offline.support import flip_log_byte
from tests.security.certificates import Authority, server_flags

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Tab offers is kept in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


WEATHER = {"RV103", "RV202", "RV203", "RV205", "RV209", "RV303", "RV304", "RV305"}
"""What the disk and the processor under the tests do to any cluster: true, and none of the faults that are made here."""


async def doctor(endpoints: Iterable[str], directories: Iterable[Path] = (), **given: object) -> Diagnosis:
    """As the command does, but for the weather; without endpoints nobody is dialled."""
    found = [look(str(path)) for path in directories]
    app = App(given={"endpoints": tuple(endpoints), "timeout_s": 4.0, **given})
    diagnosis = diagnose(await gather(app, app.settings.endpoints, found))
    return replace(diagnosis, findings=tuple(finding for finding in diagnosis.findings if finding.code not in WEATHER))


async def until_found(
    codes: str,
    endpoints: Iterable[str],
    directories: Iterable[Path] = (),
    saying: str = "",
    *,
    lacking: str = "",
    exits: ExitCode | None = None,
    exactly: bool = False,
    **given: object,
) -> Diagnosis:
    """The first diagnosis that has all of these codes, and says so somewhere: replicas take their time to notice.

    `exactly`: and no others. What passes by itself, as an election on a busy machine does, is no finding any more. `lacking` is a
    code that it must not have, and `exits` the status that it must come to.
    """
    asked, wanted = list(endpoints), set(codes.split())
    last: list[Diagnosis] = []

    async def found() -> Diagnosis | None:
        last[:] = [await doctor(asked, directories, **given)]
        codes_found = codes_of(last[0])
        right = codes_found == wanted if exactly else codes_found >= wanted and lacking not in codes_found
        said = not saying or any(saying in finding.sentence for finding in last[0].findings)
        return last[0] if right and said and exits in (None, last[0].exit) else None

    try:
        return await until(f"doctor finds {codes or 'nothing'}", found, START_S)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None


def codes_of(found: Diagnosis) -> set[str]:
    return {finding.code for finding in found.findings}


def sentence(found: Diagnosis, code: str) -> str:
    return next(finding.sentence for finding in found.findings if finding.code == code)


# --- daemons that die and hang, and what their directories tell


async def test_daemons_that_die_and_hang_and_the_directories_they_leave(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        for number in range(60):
            await client.put(b"k%d" % number, b"v" * 300)
        leader = await cluster.leader()
        second, third = await cluster.followers()
        async with InspectClient(timeout_s=CALL_S) as inspect:
            await inspect.save_snapshot(leader.address)
        everywhere = [server.data_dir for server in cluster.servers.values()]

        await until_found("", [third.address], everywhere, exactly=True)

        third.kill()
        found = await until_found("RV109", [leader.address], everywhere, exactly=True)
        [dead] = [finding for finding in found.findings if finding.code == "RV109"]
        assert dead.why == "its daemon does not run"

        second.pause()
        found = await until_found("RV101 RV108", [leader.address], everywhere, exits=ExitCode.NO_LEADER)
        hung = next(finding for finding in found.findings if finding.code == "RV108")
        assert hung.do == f"`kill -CONT {second.pid}` lets it go on"

        second.kill()
        found = await until_found("RV101", cluster.endpoints, exactly=True)
        assert sentence(found, "RV101").startswith("2 of 3 voters do not take part")

        leader.kill()
        await until_found("RV110", cluster.endpoints, exactly=True, exits=ExitCode.UNREACHABLE)

        newest = look(str(leader.data_dir))
        await until_found("RV110 RV111", cluster.endpoints, everywhere, exactly=True, exits=ExitCode.NO_LEADER)
        assert newest.last_index >= look(str(third.data_dir)).last_index

        faults_of_the_dead(tmp_path, leader.data_dir, [second.data_dir, third.data_dir])

        third.wipe()
        for server in (leader, second, third):
            server.start()
        for server in (leader, second, third):
            await cluster.answering(server)
        found = await until_found("RV406", [leader.address])
        assert sentence(found, "RV406") == f"at the address of {third.name} a blank daemon answers"


def flipped(path: Path) -> None:
    flip_log_byte(path, 20)


def log_is_noise(path: Path) -> None:
    (path / "raft" / "data.mdb").write_bytes(b"\xa5" * 65_536)


def log_is_cut(path: Path) -> None:
    file = path / "raft" / "data.mdb"
    file.write_bytes(file.read_bytes()[:20_000])


def state_is_noise(path: Path) -> None:
    (state,) = path.glob("state-*")
    (state / "data.mdb").write_bytes(b"\x5a" * 65_536)


def state_is_gone(path: Path) -> None:
    (state,) = path.glob("state-*")
    shutil.rmtree(state)


def snapshot_is_cut(path: Path) -> None:
    file = max((path / "snapshots").glob("*.mdb"))
    file.write_bytes(file.read_bytes()[:-4_096])


def of_a_later_format(path: Path) -> None:
    (path / "FORMAT").write_text("ravel 99\n")


def something_else(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def open_to_all(path: Path) -> None:
    path.chmod(0o755)


def gone(path: Path) -> None:
    shutil.rmtree(path)


SPOILT: list[tuple[Callable[[Path], None], str, ExitCode]] = [
    (flipped, "RV603", ExitCode.DAMAGED),
    (log_is_noise, "RV603", ExitCode.DAMAGED),
    (log_is_cut, "RV603", ExitCode.DAMAGED),
    (state_is_noise, "RV604", ExitCode.DAMAGED),
    (state_is_gone, "RV604", ExitCode.DAMAGED),
    (snapshot_is_cut, "RV605", ExitCode.DAMAGED),
    (something_else, "RV606", ExitCode.NO_LEADER),
    (of_a_later_format, "RV607", ExitCode.NO_LEADER),
    (gone, "RV608", ExitCode.NO_LEADER),
    (open_to_all, "RV508", ExitCode.NO_LEADER),
]


def faults_of_the_dead(folder: Path, whole: Path, others: list[Path]) -> None:
    """Each on a copy of the same directory, beside the whole ones of the others: these are a quorum."""
    rest = tuple(look(str(path)) for path in others)
    alone = diagnose(Seen(directories=rest[:1]))
    assert (codes_of(alone), alone.exit) == ({"RV112"}, ExitCode.NO_LEADER)
    for spoil, code, exits in SPOILT:
        copy = folder / spoil.__name__
        shutil.copytree(whole, copy)
        os.chmod(copy, 0o700)
        spoil(copy)
        found = diagnose(Seen(directories=(look(str(copy)), *rest)))
        assert codes_of(found) == {"RV111", code}, (spoil.__name__, found)
        assert found.exit is exits, spoil.__name__
    copied = diagnose(Seen(directories=(look(str(whole)), look(str(folder / "open_to_all")), *rest)))
    assert codes_of(copied) == {"RV111", "RV410", "RV508"}
    flipped_one = diagnose(Seen(directories=(look(str(folder / "flipped")), *rest)))
    assert "entry 20" in sentence(flipped_one, "RV603")


# --- members, records and settings


async def test_members_records_and_settings(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["--db-size-max", "1MiB"])
    [port] = free_ports(1)
    try:
        first, second, stranger = cluster.add("n1"), cluster.add("n2"), cluster.add("x1")
        odd = cluster.add("n3", ["--election-ticks", "20", "--db-size-max", "64MiB"])
        odd.flags += ["--listen", f"0.0.0.0:{odd.address.rpartition(':')[2]}", "--advertise", odd.address, "--insecure"]
        for server in cluster.servers.values():
            server.start()
        for server in cluster.servers.values():
            await cluster.answering(server)
        await until_found("RV104", cluster.endpoints, exactly=True, exits=ExitCode.NO_LEADER)

        await cluster.bootstrap(first)
        await until_found("RV402 RV408", [first.address, second.address], exactly=True, exits=ExitCode.DONE)

        await cluster.bootstrap(stranger, name="other")
        several = [first.address, f"127.0.0.1:{port}", stranger.address, first.peer_address]
        await until_found("RV402 RV511 RV512 RV513", several, exactly=True)

        async with ClusterClient([first.address], timeout_s=CALL_S) as client:
            await client.join(second.address, [first.address], promote=False)
            await until_found("RV403", [first.address])
            await client.join(odd.address, [first.address])
        found = await until_found("RV401 RV403 RV504 RV505 RV506", [first.address])
        assert "n3" in sentence(found, "RV504")

        await records(cluster, first, second)
        await removed(cluster, first, odd)
        await full(cluster, first)
    finally:
        cluster.stop_all()


async def records(cluster: Cluster, first: Server, second: Server) -> None:
    """What a member's record says, against what its daemon says: an upgrade half-way, and an address that has moved."""
    status = await cluster.status(second)
    [port] = free_ports(1)
    doctored = ServerRef()
    doctored.CopyFrom(status.server)
    doctored.version, doctored.format = "0.0.1", status.server.format + 1
    doctored.addresses.listen = f"127.0.0.1:{port}"
    async with ClusterClient([first.address], timeout_s=CALL_S) as client:
        await client.update_member(status.header.replica_id, doctored)
    found = await until_found("RV411 RV510", [first.address, second.address])
    assert f"{second.name} is reached elsewhere" in sentence(found, "RV411")
    second.kill()
    found = await until_found("RV501", [first.address])
    assert "0.0.1 on n2" in sentence(found, "RV501")


async def removed(cluster: Cluster, first: Server, odd: Server) -> None:
    async with ClusterClient([first.address], timeout_s=CALL_S) as client:
        odd_id = (await cluster.status(odd)).header.replica_id
        await until("it leaves", lambda: client.leave([odd_id]), START_S)
    found = await until_found("RV404", [first.address, odd.address])
    assert sentence(found, "RV404").startswith(f"n3 at {odd.address} was removed")


async def full(cluster: Cluster, first: Server) -> None:
    async with RavelClient([first.address], timeout_s=CALL_S) as client:
        await asyncio.gather(
            *(client.put(b"fill%d" % number, b"v" * 20_000) for number in range(100))
        )  # the flush tells its size
    await until_found("RV302", [first.address], lacking="RV301")


# --- TLS


async def test_tls_that_does_not_come_about_and_a_certificate_that_expires(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    cluster = Cluster(tmp_path, server_flags(authority, authority.issue("server", to_days=5), mutual=False))
    try:
        server = cluster.add("n1")
        server.start()
        found = await until_found("RV502", [server.address])
        assert "speaks TLS and this client does not" in sentence(found, "RV502")
        found = await until_found("RV104 RV503", [server.address], cacert=authority.cert)
        assert "expires in 4d" in sentence(found, "RV503")
        await until_found("RV502", [server.address], saying="authority", exactly=True, cacert=other.cert)
    finally:
        cluster.stop_all()


# --- the network between replicas


async def test_replicas_that_do_not_hear_each_other(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    network = Network(lambda: {name: server.pid for name, server in cluster.servers.items() if server.running})
    try:
        servers = [cluster.add(name) for name in ("n1", "n2", "n3")]
        for server in servers:
            server.flags += ["--peer-advertise", await network.front(server.name, server.peer_address)]
            server.start()
        await cluster.bootstrap(*servers)
        leader = await cluster.leader()
        lost, other = await cluster.followers()
        await until_found("", [other.address], exactly=True)

        network.cut(lost.name, leader.name)  # one way: it still hears the leader
        await until_found("RV206", [other.address], saying=lost.name, exits=ExitCode.DEGRADED)

        for one, another in ((leader, lost), (leader, other), (lost, other)):
            network.part(one.name, another.name)
        said = "3 of 3 voters answer, and do not hear each other"
        await until_found("RV106", [other.address], saying=said, exits=ExitCode.NO_LEADER)

        network.heal()
        await cluster.leader()
    finally:
        cluster.stop_all()
        await network.close()
