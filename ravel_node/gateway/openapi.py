"""What the gateway offers, as OpenAPI 3.1 and as a page to read. A test holds the paths against the routes."""

from __future__ import annotations

import html
import json
from typing import Any, Final

from ravel_node import __version__

_ERROR: Final = {"$ref": "#/components/responses/Error"}
_KEY: Final = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "1 to 480 bytes, percent-encoded; slashes may stand as they are.",
    "schema": {"type": "string"},
}
_CONSISTENCY: Final = {
    "name": "consistency",
    "in": "query",
    "description": "linearizable: what every acknowledged write left. quorum: the same, confirmed by a majority each time. "
    "stale: what some replica has applied.",
    "schema": {"enum": ["linearizable", "quorum", "stale"], "default": "linearizable"},
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def _json(description: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(*names: str) -> dict[str, Any]:
    about = {"key": {"type": "string"}, "val": {"description": "any JSON value"}}
    schema = {
        "type": "object",
        "properties": {name: about[name] for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _call(summary: str, answers: dict[str, Any], *, errors: str = "", **more: Any) -> dict[str, Any]:
    told = {status: {**_ERROR} for status in errors.split()}
    return {"summary": summary, **more, "responses": {**answers, **told, "default": _ERROR}}


_REVISION: Final = {"type": "integer", "description": "the revision at which it was written"}
_BYTES: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

PATHS: Final[dict[str, Any]] = {
    "/put": {
        "post": _call(
            "Set a key to any JSON value, which comes back to the letter",
            {"200": _json("It is set.", msg={"const": "ok"}, revision=_REVISION)},
            errors="400 413 503 504 507",
            requestBody=_body("key", "val"),
        )
    },
    "/get": {
        "post": _call(
            "The JSON value of a key",
            {"200": _json("It is there.", key={"type": "string"}, val={"description": "as it was put"}, revision=_REVISION)},
            errors="400 404 406 503 504",
            requestBody=_body("key"),
        )
    },
    "/delete": {
        "post": _call(
            "Remove a key",
            {"200": _json("It is gone.", msg={"const": "ok"}, revision=_REVISION)},
            errors="400 404 503 504",
            requestBody=_body("key"),
        )
    },
    "/v1/kv/{key}": {
        "parameters": [_KEY],
        "get": _call(
            "The bytes of a key",
            {"200": {"description": "ETag is its revision.", "content": _BYTES}, "304": {"description": "If-None-Match has it."}},
            errors="400 404 412 503 504",
            parameters=[
                _CONSISTENCY,
                _header("If-None-Match", "a tag that the caller has"),
                _header("If-Match", "only if its ETag is one of these; *: only if it is there"),
            ],
        ),
        "put": _call(
            "Set a key to these bytes",
            {"200": _json("It is set.", revision=_REVISION), "201": _json("If-None-Match: * made it.", revision=_REVISION)},
            errors="400 412 413 503 504 507",
            parameters=[
                _header("If-Match", "only if its ETag is this one; *: only if it is there"),
                _header("If-None-Match", "*: only if it is not there"),
            ],
            requestBody={"required": True, "content": _BYTES},
        ),
        "delete": _call(
            "Remove a key",
            {"200": _json("It is gone.", revision=_REVISION)},
            errors="400 404 412 503 504",
            parameters=[_header("If-Match", "only if its ETag is this one; *: only if it is there")],
        ),
    },
    "/v1/kv": {
        "get": _call(
            "Keys in byte order, over all clusters",
            {
                "200": _json(
                    "key and value as text, or key_base64 and value_base64 where they are not UTF-8.",
                    items={"type": "array", "items": {"type": "object"}},
                    more={"type": "boolean"},
                    next={"type": "string", "description": "where to go on, if there is more"},
                )
            },
            errors="400 503 504",
            parameters=[
                _parameter("prefix", "what the keys begin with, percent-encoded"),
                _parameter("start", "first key, inclusive"),
                _parameter("end", "last key, exclusive"),
                _parameter("limit", "keys at most", type="integer", minimum=1, maximum=1000, default=100),
                _parameter("keys_only", "leave the values out", enum=["true", "false"], default="false"),
                _CONSISTENCY,
            ],
        )
    },
    "/v1/clusters": {"get": _call("All clusters", {"200": _json("As the admin has them.")}, errors="503")},
    "/v1/servers": {"get": _call("All servers", {"200": _json("As the admin has them.")}, errors="503")},
    "/healthz": {"get": {"summary": "This gateway runs", "responses": {"200": _json("It does.", status={"const": "ok"})}}},
    "/readyz": {
        "get": _call("This gateway knows where keys are", {"200": _json("It does.", status={"const": "ok"})}, errors="503 504")
    },
    "/metrics": {
        "get": {
            "summary": "What it counts, for Prometheus",
            "responses": {"200": {"description": "All of it.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        }
    },
}

_ERROR_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["reason", "message", "outcome"],
            "properties": {
                "reason": {"type": "string", "description": "for programs; never changes its meaning"},
                "message": {"type": "string", "description": "for people"},
                "next_step": {"type": "string"},
                "outcome": {
                    "enum": ["nothing done", "unknown"],
                    "description": "unknown: the write may have happened, or may still happen",
                },
            },
        }
    },
}

DOCUMENT: Final = json.dumps(
    {
        "openapi": "3.1.0",
        "info": {
            "title": "ravel",
            "version": __version__,
            "description": "The HTTP gateway to all clusters of an admin group.",
        },
        "paths": PATHS,
        "components": {
            "responses": {
                "Error": {
                    "description": "400 a fault of the request; 404 no such key; 412 a condition does not hold; 413 too large; "
                    "503 the cluster is away, nothing was done; 504 the time ran out, `outcome` tells whether a write may have "
                    "happened; 507 the store is full.",
                    "content": {"application/json": {"schema": _ERROR_SCHEMA}},
                }
            }
        },
    }
).encode()


def _page() -> str:
    rows = "\n".join(
        f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(call['summary'])}</td></tr>"
        for path, calls in PATHS.items()
        for method, call in calls.items()
        if method != "parameters"
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ravel</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
td{{padding:.2em 1em .2em 0;vertical-align:top}}
pre{{background:#8882;padding:1em;overflow:auto}}</style>
<h1>ravel {html.escape(__version__)}</h1>
<p>The HTTP gateway to all clusters of an admin group. Everything about each call: <a href="/openapi.json">/openapi.json</a>.</p>
<table>
{rows}
</table>
<pre>curl -X POST HOST/put -d '{{"key": "orders/17", "val": {{"state": "shipped"}}}}'
curl -X POST HOST/get -d '{{"key": "orders/17"}}'
curl HOST/v1/kv/orders/17
curl 'HOST/v1/kv?prefix=orders/&amp;limit=10'</pre>
</html>
"""


PAGE: Final = _page()
