"""Two clusters, an admin and HTTP: real daemons, all the way through, also while slots move and the admin is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from ravelctl.client import RavelClient
from ravelctl.client.routing.slot_map import SlotRoutes
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S
from tests.e2e.http_door import running_gateway
from tests.e2e.ports import free_ports

pytestmark = pytest.mark.e2e


async def spread(system: System) -> None:
    """Both clusters own slots."""
    async with system.client(timeout_s=CALL_S) as admin:
        async for _ in admin.rebalance():
            pass
    await system.told("both own slots", lambda found: all(cluster.slots for cluster in found.clusters))


async def test_http_reaches_every_cluster(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        for name, cluster in (("n1", "one"), ("n2", "two")):
            system.start(name, "--new-cluster", cluster)
            await system.seated(cluster, name)
        async with (
            running_gateway(tmp_path, system.admins.endpoints) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=CALL_S) as http,
            RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client,
        ):
            for i in range(50):
                answer = await http.post("/put", json={"key": f"k{i:02d}", "val": {"number": i, "text": "é"}})
                assert answer.status_code == 200, answer.text
            writing = asyncio.create_task(write_on(client))
            await spread(system)
            written = await writing

            # the same keys, wherever they are now, by each of the ways
            listed = (await http.get("/v1/kv?prefix=k&limit=1000")).json()
            assert [item["key"] for item in listed["items"]] == [f"k{i:02d}" for i in range(50)]
            assert (await http.post("/get", json={"key": "k07"})).json()["val"] == {"number": 7, "text": "é"}
            assert [item.key async for item in client.scan(prefix=b"w")] == sorted(written)
            clusters = (await http.get("/v1/clusters")).json()["clusters"]
            assert [cluster["name"] for cluster in clusters] == ["one", "two"]
            assert sum(cluster["slots"] for cluster in clusters) == 4096
            assert {one["name"] for one in (await http.get("/v1/servers")).json()["servers"]} == {"n1", "n2"}

            made = await http.put("/v1/kv/bound%2Fkey", content=b"\xff", headers={"If-None-Match": "*"})
            assert made.status_code == 201
            assert (await http.put("/v1/kv/bound%2Fkey", content=b"2", headers={"If-Match": '"1"'})).status_code == 412
            assert (await http.get("/v1/kv/bound%2Fkey")).content == b"\xff"

            async with system.client(timeout_s=CALL_S) as admin:
                routes = SlotRoutes.first(await admin.slot_map())
            homes = {routes.owner_of(b"k%02d" % i).name: f"k{i:02d}" for i in range(50)}

            # without an admin nothing changes for those who have the map; a cluster that is away is 503
            system.admins.servers["a1"].kill()
            assert (await http.post("/put", json={"key": "k07", "val": -0.0})).status_code == 200
            assert (await http.post("/get", json={"key": "k07"})).text.startswith('{"key":"k07","val":-0.0')
            assert (await http.get("/v1/clusters")).status_code == 503
            system.servers.servers["n2"].kill()
            assert (await http.get(f"/v1/kv/{homes['one']}")).status_code == 200
            assert (await http.get(f"/v1/kv/{homes['two']}")).status_code == 503


async def write_on(client: RavelClient) -> list[bytes]:
    """Write keys one after the other for a while: none may fail."""
    keys = [b"w%03d" % i for i in range(150)]
    for key in keys:
        await client.put(key, b"v" + key)
        await asyncio.sleep(0.01)
    return keys


async def test_an_admin_serves_http_too(tmp_path: Path) -> None:
    system = System(tmp_path)
    try:
        (port,) = free_ports(1)
        admin = system.add_admin("a1")
        admin.start("--http", f"127.0.0.1:{port}")
        await system.admins.bootstrap(admin, name="admins")
        system.start("n1")
        await system.seated("default", "n1")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=CALL_S) as http:
            assert (await http.put("/v1/kv/k", content=b"v")).status_code == 200
            assert (await http.get("/v1/kv/k")).content == b"v"
            assert (await http.get("/openapi.json")).status_code == 200
        assert await asyncio.to_thread(admin.terminate) == 0
    finally:
        system.stop_all()
