"""Clusters from one admin address: the overview on the screen, in a pipe, and as the list changes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ravelctl.client import AdminClient, ClusterClient, InspectClient, NotAdminError, RavelError, UnreachableError
from ravelctl.dashboard.fleet import FLEET_COLUMNS, FleetRow, fleet_lines
from ravelctl.dashboard.listing import GROUP, Fleet
from ravelctl.dashboard.plain import one_frame
from ravelctl.dashboard.session import Clock, Live, Options, Target
from ravelpb.v1 import admin_pb2 as pb
from ravelpb.v1.common_pb2 import Addresses, ServerRef
from tests.ravelctl.dashboard import scripted
from tests.ravelctl.dashboard.conftest import Open, options_for
from tests.ravelctl.dashboard.scripted import Scripted


class Lister:
    """An admin's client that answers what it is told to."""

    def __init__(self, answer: pb.DirectoryResponse | RavelError) -> None:
        self.answer = answer

    async def __aenter__(self) -> Lister:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def directory(self, *, timeout_s: float | None = None) -> pb.DirectoryResponse:
        if isinstance(self.answer, RavelError):
            raise self.answer
        return self.answer

    def options(self) -> dict[str, Any]:
        return {"admin": lambda: cast(AdminClient, self), "member": member}


def member(endpoints: tuple[str, ...], cluster_id: str) -> Target:
    return Target(endpoints, lambda addresses: ClusterClient(tuple(addresses), timeout_s=5.0), lambda: InspectClient())


def listed(**clusters: tuple[str, ...]) -> pb.DirectoryResponse:
    """Clusters at these addresses; the last of each leads."""
    answer = pb.DirectoryResponse(map_version=1)
    for number, (name, addresses) in enumerate(clusters.items(), 1):
        servers = [
            ServerRef(server_id=f"{number:016x}{place:016x}", name=f"n{place}", addresses=Addresses(listen=address))
            for place, address in enumerate(addresses)
        ]
        answer.servers.extend(pb.DirectoryServer(server=server, cluster=number, seat=pb.SEAT_VOTER) for server in servers)
        leader_id = servers[-1].server_id if servers else ""
        answer.clusters.append(pb.DirectoryCluster(number=number, name=name, leader_id=leader_id, slots=2048 if servers else 0))
    return answer


async def test_top_begins_with_what_the_admin_lists(desk: Open) -> None:
    group, one, other = Scripted(3, name="admin"), Scripted(3, name="orders"), Scripted(3, name="users")
    scripted.no_leader(other)
    await one.start()
    await other.start()
    try:
        lister = Lister(listed(orders=one.addresses, users=other.addresses[:1], stock=()))
        async with desk(group, **lister.options()) as found:
            await found.until(lambda: found.lines("!users"), "no overview")
            await found.until(lambda: found.lines("NO-LEADER"))
            assert found.lines("4 clusters")
            assert found.lines("(admin)")
            assert "2048" in found.lines("orders")[0]
            assert "?" in found.lines("stock")[0]
            await found.press("home", "enter")
            await found.until(lambda: found.app.tick() or found.lines("NO LEADER for 14s"))
            await found.press("m")
            await found.until(lambda: found.lines("4 clusters"))
            await found.press("s", "home", "enter")
            await found.until(lambda: found.app.tick() or found.lines("admin"), "the admin group is a cluster as others are")
    finally:
        await one.stop()
        await other.stop()


@pytest.mark.parametrize("answer", [NotAdminError("no admin"), UnreachableError("nobody there")])
async def test_without_an_admin_it_is_as_ever(desk: Open, answer: RavelError) -> None:
    async with desk(Scripted(3), **Lister(answer).options()) as found:
        await found.passes()
        assert found.lines("prod-eu")
        assert not found.app.fleet.is_listed
        await found.press("m")
        await found.until(lambda: found.lines("Only one cluster is known"))


async def test_in_a_pipe_it_is_a_table() -> None:
    group, one = Scripted(3, name="admin"), Scripted(3, name="orders")
    await group.start()
    await one.start()
    try:
        lister = Lister(listed(orders=one.addresses, stock=("127.0.0.1:1",)))
        view = await one_frame(options_for(group, Clock(), **lister.options()))
        lister.answer = NotAdminError("no admin")
        alone = await one_frame(options_for(group, Clock(), **lister.options()))
    finally:
        await group.stop()
        await one.stop()
    lines = str(view.body).splitlines()
    assert lines[0].split()[:3] == ["CLUSTER", "HEALTH", "LEADER"]
    assert "SLOTS" in lines[0]
    assert sorted(view.names) == [GROUP, "orders", "stock"]
    assert all(line == line.rstrip() for line in lines)
    told = {one["name"]: one for one in cast(Any, view.data)["clusters"]}
    assert (told["stock"]["health"], told["stock"]["reached"], told["orders"]["slots"]) == ("UNREACH", False, 2048)
    assert alone.kind == "Top"


@pytest.mark.parametrize(
    ("columns", "gone"), [(120, set()), (104, {"SNAP", "NODES"}), (80, {"SNAP", "NODES", "SLOTS", "CHG/h", "TERM", "MAX-LAG"})]
)
def test_what_another_column_or_an_alarm_tells_goes_before_slots(columns: int, gone: set[str]) -> None:
    """Voters stand in QUORUM, and a snapshot that stands still is an alarm."""
    title, _ = fleet_lines([FleetRow("orders", None, 2048)], columns)
    shown = set("".join(span.text for span in title).split())
    assert {column.title for column in FLEET_COLUMNS} - shown == gone


class Watched:
    """Who is followed, and who is not any more."""

    def __init__(self) -> None:
        self.now: list[Live] = []

    def __call__(self, live: Live) -> Any:
        self.now.append(live)
        return lambda: self.now.remove(live)

    @property
    def addresses(self) -> set[str]:
        return {address for live in self.now for address in live.target.endpoints}


def test_clusters_come_and_go_with_the_list() -> None:
    watched = Watched()
    fleet = Fleet(Options(member(("10.0.0.1:1",), ""), member=member), watched)
    fleet.take(listed(orders=("10.0.1.1:1", "10.0.1.2:1"), stock=()))
    assert [row.name for row in fleet.rows] == [GROUP, "orders", "stock"]
    orders = fleet.live("orders")
    assert orders is not None
    assert orders.target.endpoints == ("10.0.1.2:1", "10.0.1.1:1"), "the leader first"
    fleet.take(listed(users=("10.0.2.1:1",), orders=("10.0.1.2:1", "10.0.1.3:1")))
    assert [row.name for row in fleet.rows] == [GROUP, "users", "orders"]
    assert fleet.live("orders") is orders, "one of its addresses is still on the list"
    assert watched.addresses == {"10.0.0.1:1", "10.0.1.1:1", "10.0.1.2:1", "10.0.2.1:1"}
    fleet.take(listed(orders=("10.0.1.8:1",)))
    assert watched.addresses == {"10.0.0.1:1", "10.0.1.8:1"}, "all its servers were replaced"
    assert [row.slots for row in fleet.rows] == [None, 2048]


def test_the_list_takes_the_place_of_contexts() -> None:
    watched = Watched()
    fleet = Fleet(Options(member(("10.0.0.1:1",), ""), member=member, clusters={"prod": member(("10.0.9.1:1",), "")}), watched)
    assert fleet.begin()
    assert not fleet.begin()
    fleet.take(listed(orders=("10.0.1.1:1",)))
    assert [row.name for row in fleet.rows] == [GROUP, "orders"]
    assert not fleet.begin()
