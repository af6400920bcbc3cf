"""The paths of the gateway over fake clusters."""

from __future__ import annotations

import asyncio
import base64
import json
from time import perf_counter
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from starlette.routing import Route

from ravel_node.gateway.app import make_app
from ravel_node.gateway.door import Door, GatewayLimits
from ravel_node.gateway.errors import STATUS_OF
from ravel_node.gateway.openapi import PATHS
from ravel_node.gateway.routes import routes
from ravelctl.client import LocalReason
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1.admin_pb2 import SEAT_VOTER, DirectoryCluster, DirectoryResponse, DirectoryServer
from ravelpb.v1.common_pb2 import Addresses, ServerRef
from tests.gateway.conftest import CALL_S
from tests.gateway.test_values import JSON
from tests.ravelctl.client.fake_admin import FakeWorld, key_of_slot
from tests.ravelctl.client.fake_server import Fault

EVEN = range(0, SLOT_COUNT, 2)  # the slots of the first cluster


def error_of(answer: httpx.Response) -> dict[str, str]:
    told: dict[str, str] = answer.json()["error"]
    return told


# --- the original's paths


async def test_put_get_delete(http: httpx.AsyncClient, world: FakeWorld) -> None:
    put = await http.post("/put", content=b'{"key": "orders/17", "val": {"state": "shipped"}}')
    assert (put.status_code, put.json()["msg"]) == (200, "ok")
    assert world.owner(b"orders/17").data[b"orders/17"][0] == b'{"state": "shipped"}'
    got = await http.post("/get", content=b'{"key": "orders/17"}')
    assert got.status_code == 200
    assert got.json() == {"key": "orders/17", "val": {"state": "shipped"}, "revision": put.json()["revision"]}
    assert got.headers["content-type"] == "application/json"
    gone = await http.post("/delete", content=b'{"key": "orders/17"}')
    assert (gone.status_code, gone.json()["msg"]) == (200, "ok")
    for path in ("/get", "/delete"):
        missing = await http.post(path, content=b'{"key": "orders/17"}')
        assert missing.status_code == 404
        assert error_of(missing)["message"] == 'there is no key "orders/17"'


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
async def test_every_value_comes_back(http: httpx.AsyncClient, value: Any) -> None:
    body = json.dumps({"key": "k", "val": value}).encode()
    if len(body) > 2_000:
        return
    assert (await http.post("/put", content=body)).status_code == 200
    got = (await http.post("/get", content=b'{"key": "k"}')).content
    assert json.dumps(json.loads(got)["val"]) == json.dumps(value)


async def test_a_value_that_is_no_json_is_told_of(http: httpx.AsyncClient) -> None:
    await http.put("/v1/kv/a%2Fb", content=b"\xff\x00")
    refused = await http.post("/get", content=b'{"key": "a/b"}')
    assert refused.status_code == 406
    assert error_of(refused)["next_step"] == "GET /v1/kv/a%2Fb gives its bytes"


async def test_a_faulty_body_is_400_and_changes_nothing(http: httpx.AsyncClient, world: FakeWorld) -> None:
    for body in (b'{"key": "k"}', b'{"key": 1, "val": 1}', b"{", b'{"key": "", "val": 1}'):
        refused = await http.post("/put", content=body)
        assert refused.status_code == 400
        assert error_of(refused)["outcome"] == "nothing done"
    assert not any(cluster.data for cluster in world.clusters)


# --- keys as resources


async def test_bytes_and_tags(http: httpx.AsyncClient) -> None:
    made = await http.put("/v1/kv/k", content=bytes(range(256)))
    assert (made.status_code, made.headers["etag"]) == (200, f'"{made.json()["revision"]}"')
    got = await http.get("/v1/kv/k")
    assert (got.status_code, got.content, got.headers["etag"]) == (200, bytes(range(256)), made.headers["etag"])
    assert (await http.get("/v1/kv/k", headers={"If-None-Match": made.headers["etag"]})).status_code == 304
    assert (await http.head("/v1/kv/k")).headers["content-length"] == "256"
    assert (await http.get("/v1/kv/k", headers={"If-Match": made.headers["etag"]})).status_code == 200
    assert (await http.get("/v1/kv/k", headers={"If-Match": '"999"'})).status_code == 412
    assert (await http.get("/v1/kv/none", headers={"If-Match": "*"})).status_code == 412
    for word in ("stale", "quorum"):
        assert (await http.get(f"/v1/kv/k?consistency={word}")).status_code == 200
    assert (await http.delete("/v1/kv/k")).status_code == 200
    assert (await http.delete("/v1/kv/k")).status_code == 404
    assert (await http.get("/v1/kv/k")).status_code == 404


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b", b"a/b"),
        ("a%2Fb", b"a/b"),
        ("%FF%00", b"\xff\0"),
        ("a%0A", b"a\n"),
        ("%C3%A9", "é".encode()),
        ("a+b%20c", b"a+b c"),
        ("a/", b"a/"),
    ],
)
async def test_a_key_may_be_any_bytes(http: httpx.AsyncClient, world: FakeWorld, path: str, key: bytes) -> None:
    assert (await http.put(f"/v1/kv/{path}", content=b"v")).status_code == 200
    assert key in world.owner(key).data
    assert (await http.get(f"/v1/kv/{path}")).content == b"v"


async def test_if_match_is_a_compare_and_swap(http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/kv/k", content=b"1", headers={"If-Match": "*"})).status_code == 412
    assert (await http.put("/v1/kv/k", content=b"1", headers={"If-Match": '"1"'})).status_code == 412
    made = await http.put("/v1/kv/k", content=b"1", headers={"If-None-Match": "*"})
    assert made.status_code == 201
    twice = await http.put("/v1/kv/k", content=b"2", headers={"If-None-Match": "*"})
    assert (twice.status_code, twice.headers["etag"]) == (412, made.headers["etag"])
    assert (await http.put("/v1/kv/k", content=b"2", headers={"If-Match": made.headers["etag"]})).status_code == 200
    stale = await http.put("/v1/kv/k", content=b"3", headers={"If-Match": made.headers["etag"]})
    assert stale.status_code == 412
    assert (await http.put("/v1/kv/k", content=b"4", headers={"If-Match": "*"})).status_code == 200
    assert (await http.put("/v1/kv/k", content=b"5", headers={"If-Match": 'W/"9"'})).status_code == 412
    assert (await http.get("/v1/kv/k")).content == b"4"


async def test_a_bound_delete(http: httpx.AsyncClient) -> None:
    made = await http.put("/v1/kv/k", content=b"1")
    refused = await http.delete("/v1/kv/k", headers={"If-Match": '"999"'})
    assert (refused.status_code, refused.headers["etag"]) == (412, made.headers["etag"])
    assert (await http.delete("/v1/kv/k", headers={"If-Match": made.headers["etag"]})).status_code == 200
    assert (await http.delete("/v1/kv/k", headers={"If-Match": "*"})).status_code == 412


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("PUT", "/v1/kv/", {}, 400),
        ("GET", "/v1/kv/k?consistency=maybe", {}, 400),
        ("GET", "/v1/kv/k?consistency=STALE", {}, 400),
        ("GET", "/v1/kv/k?what=1", {}, 400),
        ("PUT", "/v1/kv/k?ttl=1", {}, 400),
        ("PUT", "/v1/kv/k", {"If-Match": '"1"', "If-None-Match": "*"}, 400),
        ("PUT", "/v1/kv/k", {"If-Match": '"1", "2"'}, 400),
        ("PUT", "/v1/kv/k", {"If-None-Match": '"1"'}, 400),
        ("DELETE", "/v1/kv/k", {"If-None-Match": "*"}, 400),
        ("GET", "/v1/kv/a%zz", {}, 400),
        ("PUT", "/v1/kv/100%", {}, 400),
        ("GET", "/v1/kv?prefix=%f", {}, 400),
        ("GET", "/v1/kv?limit=0", {}, 400),
        ("GET", "/v1/kv?limit=1001", {}, 400),
        ("GET", "/v1/kv?limit=1&limit=2", {}, 400),
        ("GET", "/v1/kv?keys_only=yes", {}, 400),
        ("GET", "/v1/clusters?x=1", {}, 400),
        ("POST", "/v1/kv/k", {}, 405),
        ("GET", "/put", {}, 405),
        ("DELETE", "/v1/kv", {}, 405),
        ("GET", "/nothing", {}, 404),
    ],
)
async def test_bad_requests(
    http: httpx.AsyncClient, world: FakeWorld, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await http.request(method, path, headers=headers, content=b"v" if method == "PUT" else None)
    assert answer.status_code == status
    assert error_of(answer)["message"]
    assert not any(cluster.data for cluster in world.clusters)
    if status == 405:
        assert answer.headers["allow"]


async def test_a_full_store_is_507(http: httpx.AsyncClient, world: FakeWorld) -> None:
    (key,) = key_of_slot(EVEN)
    world.clusters[0].script = lambda request: Fault.QUOTA
    assert (await http.put(f"/v1/kv/{key.decode()}", content=b"v")).status_code == 507


async def test_a_body_over_the_limit_is_413(http: httpx.AsyncClient, world: FakeWorld) -> None:
    async def parts() -> Any:
        for _ in range(30):
            yield b"x" * 100

    for body in (b"x" * 2_001, parts()):
        refused = await http.put("/v1/kv/k", content=body)
        assert refused.status_code == 413
        assert "more than 2000 bytes" in error_of(refused)["message"]
    assert (await http.put("/v1/kv/k", content=b"x" * 2_000)).status_code == 200


# --- listing


async def test_a_listing_goes_on_where_it_ended(http: httpx.AsyncClient) -> None:
    keys = [f"k/{i:03d}" for i in range(25)]
    for key in keys:
        await http.put(f"/v1/kv/{key}", content=key.encode())
    found: list[str] = []
    path = "/v1/kv?prefix=k%2F&limit=10"
    while path:
        answer = (await http.get(path)).json()
        found += [item["key"] for item in answer["items"]]
        assert all(item["value"] == item["key"] for item in answer["items"])
        path = answer.get("next", "")
    assert found == keys
    some = (await http.get("/v1/kv?start=k/003&end=k/006&keys_only=true")).json()
    assert [item["key"] for item in some["items"]] == keys[3:6]
    assert not some["more"]
    assert "value" not in some["items"][0]


async def test_bytes_that_are_not_text_are_listed_in_base64(http: httpx.AsyncClient) -> None:
    await http.put("/v1/kv/%FF", content=b"\xfe")
    (item,) = (await http.get("/v1/kv?prefix=%FF")).json()["items"]
    assert base64.b64decode(item["key_base64"]) == b"\xff"
    assert base64.b64decode(item["value_base64"]) == b"\xfe"


# --- trouble behind the gateway


async def test_a_cluster_that_is_away_is_503_and_the_other_goes_on(http: httpx.AsyncClient, world: FakeWorld) -> None:
    (away,), (there,) = key_of_slot(EVEN), key_of_slot(range(1, SLOT_COUNT, 2))
    await http.put(f"/v1/kv/{there.decode()}", content=b"v")
    await world.clusters[0].replicas[0].stop()
    refused = await http.put(f"/v1/kv/{away.decode()}", content=b"v")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert error_of(refused)["outcome"] == "nothing done"
    assert (await http.get(f"/v1/kv/{there.decode()}")).status_code == 200
    assert (await http.get("/v1/kv")).status_code == 503


async def test_a_cluster_without_a_leader_is_503(http: httpx.AsyncClient, world: FakeWorld) -> None:
    world.clusters[0].leader = None
    (key,) = key_of_slot(EVEN)
    refused = await http.get(f"/v1/kv/{key.decode()}")
    assert (refused.status_code, error_of(refused)["reason"]) == (503, "NO_LEADER")


async def test_an_unknown_outcome_is_504_and_says_so(http: httpx.AsyncClient, world: FakeWorld) -> None:
    (key,) = key_of_slot(EVEN)
    world.clusters[0].script = lambda request: Fault.LOSE_ANSWER
    unknown = await http.put(f"/v1/kv/{key.decode()}", content=b"v")
    assert (unknown.status_code, error_of(unknown)["reason"]) == (504, "OUTCOME_UNKNOWN")
    assert error_of(unknown)["outcome"] == "unknown"


async def test_a_cluster_known_to_be_away_is_503_at_once_until_it_is_back(http: httpx.AsyncClient, world: FakeWorld) -> None:
    world.clusters[0].leader = None
    (key,) = key_of_slot(EVEN)
    path = f"/v1/kv/{key.decode()}"
    async with asyncio.timeout(60.0):
        while "until it answers" not in error_of(refused := await http.get(path))["message"]:
            assert refused.status_code == 503  # after all of its time
    began = perf_counter()
    for method, where in (("GET", path), ("PUT", path), ("GET", "/v1/kv"), ("DELETE", path)):
        refused = await http.request(method, where, content=b"v" if method == "PUT" else b"")
        assert (refused.status_code, error_of(refused)["reason"]) == (503, "NO_LEADER")
        assert "is asked again until it answers" in error_of(refused)["message"]
        assert (refused.headers["retry-after"], error_of(refused)["outcome"]) == ("1", "nothing done")
    assert perf_counter() - began < 0.9 * CALL_S  # one of them would have waited longer
    assert (await http.get(f"{path}?consistency=stale")).status_code == 404  # needs no leader
    world.clusters[0].leader = world.clusters[0].replicas[0]
    async with asyncio.timeout(60.0):
        while (await http.put(path, content=b"v")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_ready_once_it_knows_where_keys_are(http: httpx.AsyncClient, world: FakeWorld) -> None:
    (admin,) = world.admin.replicas
    await admin.stop()
    refused = await http.get("/readyz")
    # Which of the two depends on whether the refused connection or the end of the time is seen first.
    assert (refused.status_code, error_of(refused)["reason"]) in ((503, "UNREACHABLE"), (504, "TIMEOUT"))
    await admin.start(int(admin.address.rpartition(":")[2]))
    async with asyncio.timeout(60.0):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
    await admin.stop()
    assert (await http.get("/readyz")).json() == {"status": "ok"}  # it needs the admin no more


async def test_without_an_admin_the_directory_is_503(http: httpx.AsyncClient, world: FakeWorld) -> None:
    await world.admin.replicas[0].stop()
    assert (await http.get("/v1/clusters")).status_code == 503
    assert (await http.get("/healthz")).json() == {"status": "ok"}


async def test_too_many_at_once_are_503(http: httpx.AsyncClient, world: FakeWorld) -> None:
    (key,) = key_of_slot(EVEN)
    world.clusters[0].script = lambda request: Fault.HANG
    calls = [asyncio.create_task(http.get(f"/v1/kv/{key.decode()}")) for _ in range(8)]
    async with asyncio.timeout(60.0):
        while (await http.get("/metrics")).text.count("ravel_http_requests_in_progress 9.0") == 0:  # with this one
            await asyncio.sleep(0.01)
    refused = await http.get(f"/v1/kv/{key.decode()}")
    assert (refused.status_code, error_of(refused)["reason"]) == (503, "BUSY")
    assert (await http.get("/healthz")).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*calls)} <= {503, 504}
    world.clusters[0].script = lambda request: Fault.NONE
    assert (await http.put("/v1/kv/other", content=b"v")).status_code in (200, 503)


# --- the directory, and the gateway itself


async def test_clusters_and_servers(http: httpx.AsyncClient, world: FakeWorld) -> None:
    server = ServerRef(server_id="a" * 32, name="n1", version="0.1.0", addresses=Addresses(listen="127.0.0.1:7400"))
    found = DirectoryResponse(
        clusters=[DirectoryCluster(number=1, name="c1", leader_id="a" * 32, term=7, slots=4096, founded=True)],
        servers=[DirectoryServer(server=server, cluster=1, replica_id=1, seat=SEAT_VOTER, heard=True, heard_age_ms=41)],
        map_version=3,
    )  # fmt: skip
    world.admin.replicas[0].answers["Directory"] = lambda request: found
    clusters = (await http.get("/v1/clusters")).json()
    assert clusters["map_version"] == 3
    assert {name: clusters["clusters"][0][name] for name in ("name", "leader", "term", "slots", "replicas")} == {
        "name": "c1", "leader": "n1", "term": 7, "slots": 4096, "replicas": 1,
    }  # fmt: skip
    (listed,) = (await http.get("/v1/servers")).json()["servers"]
    assert (listed["name"], listed["cluster"], listed["seat"], listed["leads"], listed["heard_s"]) == (
        "n1",
        "c1",
        "voter",
        True,
        0.041,
    )


async def test_the_document_has_every_path_and_no_other(http: httpx.AsyncClient) -> None:
    nobody: Any = None  # nothing is asked of it
    door = Door(nobody, nobody, GatewayLimits())
    offered = {
        (route.path.replace(":bytes", ""), method.lower())
        for route in routes(door)
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    told = {(path, method) for path, calls in PATHS.items() for method in calls if method != "parameters"}
    assert told == {one for one in offered if one[1] != "head" and one[0] not in ("/", "/openapi.json")}
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    page = await http.get("/")
    assert "/v1/kv/{key}" in page.text


async def test_metrics(http: httpx.AsyncClient) -> None:
    await http.put("/v1/kv/k", content=b"v")
    await http.get("/v1/kv/none")
    await http.get("/made/up")
    await http.request("MADEUP", "/v1/kv/k")
    page = await http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'ravel_http_requests_total{method="PUT",path="/v1/kv/{key}",status="200"} 1.0',
        'ravel_http_requests_total{method="GET",path="/v1/kv/{key}",status="404"} 1.0',
        'ravel_http_requests_total{method="GET",path="other",status="404"} 1.0',
        'ravel_http_requests_total{method="other",path="/v1/kv/{key}",status="405"} 1.0',
        'ravel_http_request_seconds_count{method="PUT",path="/v1/kv/{key}"} 1.0',
        "ravel_http_requests_in_progress 1.0",
        "ravel_build_info{",
    ):
        assert line in page.text


async def test_an_access_log_tells_each_request(world: FakeWorld) -> None:
    nobody: Any = None  # nothing is asked of it
    app = make_app(nobody, nobody, GatewayLimits(), access_log=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        with structlog.testing.capture_logs() as told:
            await http.put("/v1/kv/", content=b"v")
    (entry,) = told
    assert (entry["event"], entry["method"], entry["path"], entry["status"]) == ("gateway.request", "PUT", "/v1/kv/", 400)
    assert entry["bytes"] > 0
    assert entry["ms"] >= 0


def test_reasons_without_a_status_are_those_of_operators() -> None:
    assert {reason for reason in (*Reason, *LocalReason) if reason not in STATUS_OF} == {
        Reason.ALREADY_MEMBER, Reason.UNKNOWN_MEMBER, Reason.NAME_TAKEN, Reason.ADDRESS_TAKEN, Reason.STALE_REPORT,
        Reason.LAST_REPLICA, Reason.CLUSTER_IN_USE, Reason.MOVE_REFUSED, Reason.UNSAFE_CHANGE, Reason.STALE_VIEW,
        Reason.CHANGE_IN_PROGRESS, Reason.UNREACHABLE_MEMBER, Reason.NOT_CAUGHT_UP, Reason.TRANSFER_FAILED, Reason.INTERNAL,
        Reason.SUPERSEDED, LocalReason.NOT_SENT, LocalReason.MISUSED,
    }  # fmt: skip
