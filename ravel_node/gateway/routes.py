"""What each path does. Handlers take what the client library gives and add nothing to it but HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote_from_bytes

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ravel_node.gateway.door import Door
from ravel_node.gateway.errors import HttpError
from ravel_node.gateway.openapi import DOCUMENT, PAGE
from ravel_node.gateway.requests import (
    Precondition,
    body_of,
    consistency_of,
    etag,
    failed_precondition,
    flag_of,
    key_in_path,
    limit_of,
    precondition_of,
    query,
)
from ravel_node.gateway.values import is_json, key_of, members
from ravelctl.client import Condition, Delete
from ravelpb.errors import Reason

LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1_000
LIST_PAGE: Final = 100
"""Keys that are asked of each cluster at once: a listing holds few large values that it does not tell."""

LIST_BYTES_MAX: Final = 4 << 20
"""Bytes of keys and values after which a listing ends, and says where to go on."""

MATCH_TRIES: Final = 8
"""If-Match: * is tried so often against writers who are faster."""

READY_S: Final = 1.0
"""How long a probe waits for the map of slots, where there is none yet: probes have short times themselves."""

JSON: Final = "application/json"

Handler = Callable[[Request], Awaitable[Response]]


def routes(door: Door) -> list[BaseRoute]:
    """All of them, the busiest first: they are tried in order."""
    return [
        Route("/v1/kv/{key:bytes}", door.guarded(kv_key(door)), methods=["GET", "PUT", "DELETE"]),
        Route("/get", door.guarded(post_get(door)), methods=["POST"]),
        Route("/put", door.guarded(post_put(door)), methods=["POST"]),
        Route("/delete", door.guarded(post_delete(door)), methods=["POST"]),
        Route("/v1/kv", door.guarded(kv_list(door)), methods=["GET"]),
        Route("/v1/clusters", door.guarded(clusters(door)), methods=["GET"]),
        Route("/v1/servers", door.guarded(servers(door)), methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/readyz", door.guarded(_readyz(door)), methods=["GET"]),
        Route("/metrics", _metrics(door), methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/", _page, methods=["GET"]),
    ]


# --- the original's


def post_put(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        found = members(await body_of(request, door.limits.body_bytes_max), needed=("key", "val"))
        written = await door.client.put(key_of(found["key"]), found["val"].encode())
        return JSONResponse({"msg": "ok", "revision": written.revision}, headers={"ETag": etag(written.revision)})

    return handle


def post_get(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        found = members(await body_of(request, door.limits.body_bytes_max), needed=("key",))
        key = key_of(found["key"])
        item = await door.client.get(key)
        if item is None:
            raise _no_key(key)
        if not is_json(item.value):
            raise HttpError(
                406, "NOT_JSON", f"the value under {_shown(key)} is not JSON",
                next_step=f"GET /v1/kv/{quote_from_bytes(key, safe='')} gives its bytes",
            )  # fmt: skip
        # The value as it was sent, not as a parser would write it.
        body = b'{"key":%b,"val":%b,"revision":%d}' % (found["key"].encode(), item.value, item.revision)
        return Response(body, media_type=JSON, headers={"ETag": etag(item.revision)})

    return handle


def post_delete(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        found = members(await body_of(request, door.limits.body_bytes_max), needed=("key",))
        key = key_of(found["key"])
        gone = await door.client.delete(key)
        if not gone.found:
            raise _no_key(key)
        return JSONResponse({"msg": "ok", "revision": gone.revision})

    return handle


# --- keys as resources


def kv_key(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        key = key_in_path(request)
        if request.method == "PUT":
            query(request, ())
            bound = precondition_of(request)
            return await _put(door, key, await body_of(request, door.limits.body_bytes_max), bound)
        if request.method == "DELETE":
            query(request, ())
            return await _delete(door, key, precondition_of(request, may_create=False))
        item = await door.client.get(key, consistency=consistency_of(query(request, ("consistency",))))
        revision = item.revision if item is not None else 0
        if not _as_wanted(request.headers.get("if-match"), revision):
            raise failed_precondition(revision)
        if item is None:
            raise _no_key(key)
        headers = {"ETag": etag(item.revision)}
        if _seen_already(request.headers.get("if-none-match"), item.revision):
            return Response(status_code=304, headers=headers)
        return Response(item.value, media_type="application/octet-stream", headers=headers)

    return handle


async def _put(door: Door, key: bytes, value: bytes, bound: Precondition) -> Response:
    if not bound.given:
        written = await door.client.put(key, value)
        return _written(written.revision)
    for _ in range(MATCH_TRIES):
        revision = await _revision(door, key, bound)
        swap = await door.client.compare_and_swap(key, value, expected_revision=revision)
        if swap.swapped:
            return _written(swap.revision, created=revision == 0)
        if not bound.must_exist:
            raise failed_precondition(swap.revision)
    raise _outrun(key)


async def _delete(door: Door, key: bytes, bound: Precondition) -> Response:
    if not bound.given:
        gone = await door.client.delete(key)
        if not gone.found:
            raise _no_key(key)
        return JSONResponse({"revision": gone.revision})
    for _ in range(MATCH_TRIES):
        revision = await _revision(door, key, bound)
        done = await door.client.write([Delete(key)], conditions=[Condition(key, revision)])
        if done.done:
            return JSONResponse({"revision": done.revision})
        if not bound.must_exist:
            raise failed_precondition(done.revision)
    raise _outrun(key)


async def _revision(door: Door, key: bytes, bound: Precondition) -> int:
    """The revision that the key must have."""
    if not bound.must_exist:
        return bound.revision or 0
    item = await door.client.get(key)
    if item is None:
        raise failed_precondition(0)
    return item.revision


def kv_list(door: Door) -> Handler:
    names = ("prefix", "start", "end", "limit", "keys_only", "consistency")

    async def handle(request: Request) -> Response:
        asked = query(request, names)
        limit = limit_of(asked, default=LIST_DEFAULT, high=LIST_MAX)
        keys_only = flag_of(asked, "keys_only")
        items: list[dict[str, Any]] = []
        size = 0
        following: bytes | None = None
        scan = door.client.scan(
            prefix=asked.get("prefix"),
            start=asked.get("start", b""),
            end=asked.get("end") or None,
            limit=limit + 1,
            keys_only=keys_only,
            consistency=consistency_of(asked),
            page_keys_max=min(limit + 1, LIST_PAGE),
        )
        async with aclosing(scan):
            async for item in scan:
                size += len(item.key) + len(item.value)
                if len(items) == limit or (items and size > LIST_BYTES_MAX):
                    following = item.key
                    break
                value = {} if keys_only else _text_or_base64("value", item.value)
                items.append({**_text_or_base64("key", item.key), **value, "revision": item.revision})
        answer: dict[str, Any] = {"items": items, "more": following is not None}
        if following is not None:
            again = {**asked, "start": following}
            answer["next"] = "/v1/kv?" + "&".join(
                f"{name}={quote_from_bytes(again[name], safe='')}" for name in names if name in again
            )
        return JSONResponse(answer)

    return handle


# --- the directory


def clusters(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        query(request, ())
        found = await door.admin.directory()
        names = {server.server.server_id: server.server.name for server in found.servers}
        listed = [
            {
                "number": cluster.number,
                "name": cluster.name,
                "cluster_id": cluster.cluster_id,
                "founded": cluster.founded,
                "leader": names.get(cluster.leader_id) or None,
                "term": cluster.term,
                "replicas": sum(server.cluster == cluster.number for server in found.servers),
                "replicas_wanted": cluster.replicas_wanted,
                "slots": cluster.slots,
                "emptying": cluster.emptying,
            }
            for cluster in found.clusters
        ]
        return JSONResponse({"clusters": listed, "map_version": found.map_version, "moves": len(found.moves)})

    return handle


def servers(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        query(request, ())
        found = await door.admin.directory()
        names = {cluster.number: cluster.name for cluster in found.clusters}
        leaders = {cluster.leader_id for cluster in found.clusters}
        listed = [
            {
                "server_id": one.server.server_id,
                "name": one.server.name,
                "address": one.server.addresses.listen,
                "version": one.server.version,
                "cluster": names.get(one.cluster),
                "replica_id": one.replica_id or None,
                "seat": SEATS.get(one.seat, "unknown"),
                "leads": one.server.server_id in leaders,
                "leaving": one.leaving,
                "down": one.down,
                "heard_s": one.heard_age_ms / 1000 if one.heard else None,
            }
            for one in found.servers
        ]
        return JSONResponse({"servers": listed})

    return handle


SEATS: Final = {1: "assigned", 2: "learner", 3: "voter"}
"""admin.proto's Seat, in words."""


# --- the gateway itself


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _readyz(door: Door) -> Handler:
    """Whether it knows which cluster has which keys. It does not tell of a cluster that is away: the others are served."""

    async def handle(request: Request) -> Response:
        await door.client.prepare(timeout_s=READY_S)
        return JSONResponse({"status": "ok"})

    return handle


def _metrics(door: Door) -> Handler:
    async def handle(request: Request) -> Response:
        page, media_type = door.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type})

    return handle


async def _openapi(request: Request) -> Response:
    return Response(DOCUMENT, media_type=JSON)


async def _page(request: Request) -> Response:
    return HTMLResponse(PAGE)


# --- answers


def _written(revision: int, *, created: bool = False) -> Response:
    return JSONResponse({"revision": revision}, 201 if created else 200, {"ETag": etag(revision)})


def _as_wanted(tags: str | None, revision: int) -> bool:
    """Whether If-Match lets this be read. A weak tag never does."""
    if tags is None:
        return True
    return revision != 0 and any(tag.strip() in ("*", etag(revision)) for tag in tags.split(","))


def _seen_already(tags: str | None, revision: int) -> bool:
    if tags is None:
        return False
    return any(tag.strip().removeprefix("W/") in ("*", etag(revision)) for tag in tags.split(","))


def _text_or_base64(name: str, content: bytes) -> dict[str, str]:
    """`name`, or `name_base64` for bytes that are not UTF-8."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _no_key(key: bytes) -> HttpError:
    return HttpError(404, Reason.NOT_FOUND, f"there is no key {_shown(key)}")


def _outrun(key: bytes) -> HttpError:
    return HttpError(503, Reason.BUSY, f"{_shown(key)} was changed by others {MATCH_TRIES} times meanwhile")


def _shown(key: bytes) -> str:
    return json.dumps(key.decode(errors="backslashreplace"), ensure_ascii=False)
