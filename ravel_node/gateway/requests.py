"""What a request asks for: its key, its conditions, its query, its body. Each raises HttpError for what is wrong with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request

from ravel_node.gateway.errors import HttpError
from ravelctl.client import Consistency
from ravelpb.errors import Reason

KV_PATH: Final = b"/v1/kv/"

BODY_TIMEOUT_S: Final = 10.0
"""A body must have arrived by then."""

REVISION_MAX: Final = (1 << 64) - 1

_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ETAG: Final = re.compile(r'"([0-9]{1,20})"')


@dataclass(frozen=True, slots=True)
class Precondition:
    """If-Match and If-None-Match. `revision` None: whatever the key's revision is; 0: it must not be there."""

    revision: int | None = None
    must_exist: bool = False

    @property
    def given(self) -> bool:
        return self.revision is not None or self.must_exist


def key_in_path(request: Request) -> bytes:
    """The key after /v1/kv/, percent-decoded: any bytes, slashes too."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    key = _decoded(raw.partition(b"?")[0].removeprefix(KV_PATH))
    if not key:
        raise HttpError(400, Reason.KEY_EMPTY, "the key is empty", next_step="a key has 1 to 480 bytes")
    return key


def _decoded(part: bytes) -> bytes:
    """Percent-decoded. A percent sign of no meaning is refused: two spellings of one key would be told apart by no reader."""
    if (bad := _BAD_PERCENT.search(part)) is not None:
        shown = part[bad.start() : bad.start() + 3].decode("ascii", "backslashreplace")
        raise HttpError(
            400,
            Reason.INVALID_ARGUMENT,
            f"{shown!r} at character {bad.start() + 1} is no percent-encoding",
            next_step="write a percent sign as %25",
        )
    return unquote_to_bytes(part)


def query(request: Request, allowed: tuple[str, ...]) -> Mapping[str, bytes]:
    """The parameters, percent-decoded to bytes (a plus is a plus). Unknown and repeated ones are refused."""
    found: dict[str, bytes] = {}
    for part in bytes(request.scope["query_string"]).split(b"&"):
        if not part:
            continue
        raw_name, _, value = part.partition(b"=")
        name = _decoded(raw_name).decode(errors="replace")
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise HttpError(400, Reason.INVALID_ARGUMENT, f"there is no parameter {name!r} here; known are: {known}")
        if name in found:
            raise HttpError(400, Reason.INVALID_ARGUMENT, f"the parameter {name!r} comes twice")
        found[name] = _decoded(value)
    return found


def consistency_of(parameters: Mapping[str, bytes]) -> Consistency:
    word = parameters.get("consistency", b"linearizable").decode(errors="replace")
    try:
        return Consistency[word.upper()] if word == word.lower() else Consistency[""]
    except KeyError:
        raise HttpError(
            400, Reason.INVALID_ARGUMENT, f"consistency is {word!r}, and there are linearizable, quorum and stale"
        ) from None


def limit_of(parameters: Mapping[str, bytes], *, default: int, high: int) -> int:
    text = parameters.get("limit", b"").decode(errors="replace")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high):
        raise HttpError(400, Reason.INVALID_ARGUMENT, f"limit is {text[:20]!r}, and it may be 1 to {high}")
    return int(text)


def flag_of(parameters: Mapping[str, bytes], name: str) -> bool:
    word = parameters.get(name, b"false")
    if word not in (b"true", b"false"):
        raise HttpError(400, Reason.INVALID_ARGUMENT, f"{name} is {word[:20]!r}, and it may be true or false")
    return word == b"true"


def precondition_of(request: Request, *, may_create: bool = True) -> Precondition:
    """What a write is bound to. An entity tag that no value of ours can have never matches: 412."""
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is not None and none_match is not None:
        raise HttpError(
            400, Reason.INVALID_ARGUMENT, "If-Match and If-None-Match exclude each other", next_step="give one of them"
        )
    if none_match is not None:
        if none_match.strip() != "*" or not may_create:
            raise HttpError(
                400,
                Reason.INVALID_ARGUMENT,
                "If-None-Match of a write may only be *, with PUT: it then writes a key that is not there",
            )
        return Precondition(revision=0)
    if match is None:
        return Precondition()
    if match.strip() == "*":
        return Precondition(must_exist=True)
    if "," in match:
        raise HttpError(400, Reason.INVALID_ARGUMENT, "If-Match names several tags", next_step="give one of them, or *")
    found = _ETAG.fullmatch(match.strip())
    if found is None or not 0 < int(found[1]) <= REVISION_MAX:
        raise failed_precondition(None)
    return Precondition(revision=int(found[1]))


def etag(revision: int) -> str:
    return f'"{revision}"'


def failed_precondition(revision: int | None) -> HttpError:
    """412. `revision` is the actual one; 0: the key is not there; None: not looked at."""
    if revision is None:
        return HttpError(
            412, "PRECONDITION_FAILED", "If-Match is no tag that a value here can have: they are revisions in quotes"
        )
    if revision == 0:
        return HttpError(412, "PRECONDITION_FAILED", "the key is not there")
    return HttpError(412, "PRECONDITION_FAILED", f"the key is there with revision {revision}", headers={"ETag": etag(revision)})


async def body_of(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes: 413 for more, 408 for one that does not come."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told[:18]) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise HttpError(
            408, Reason.TIMEOUT, f"the body did not arrive within {BODY_TIMEOUT_S:g} s", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise HttpError(400, Reason.INVALID_ARGUMENT, "the connection ended before the body did") from None
    return b"".join(parts)


def _too_large(limit: int) -> HttpError:
    return HttpError(
        413,
        Reason.REQUEST_TOO_LARGE,
        f"the body has more than {limit} bytes",
        next_step="send less, or raise --body-bytes-max of the gateway and --request-bytes-max of every replica",
        headers={"Connection": "close"},  # the rest of it is not read
    )
