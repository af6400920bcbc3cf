"""The bounds of what a client may send, and the checks that name the offending value and the bound.

Checked at the edge, before anything is proposed: what is in the log was within bounds when it was written. Every bound but the
key's can be configured; a key must fit LMDB's own limit with room for a prefix (docs/on-disk.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ravel_node.machine.kv import PAGE_KEYS_MAX
from ravel_node.machine.limits import GROUP_COMMANDS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1.kv_pb2 import WatchRequest

BATCH_COMMANDS_MAX: Final = GROUP_COMMANDS_MAX
"""Commands of one Session request; conditions, and operations, of one Write."""

PAGE_KEYS_DEFAULT: Final = 1_000

PROGRESS_MS_DEFAULT: Final = 10_000
PROGRESS_MS_MIN: Final = 100
PROGRESS_MS_MAX: Final = 600_000
"""How often a Watch stream says how far it is: unless asked otherwise, at most, at least."""


class InputError(Exception):
    """What a client sent cannot be served as it is; nothing was done. `field` names it, `value` and `limit` are its figures as
    text."""

    def __init__(self, why: str, *, field: str, value: object = "", limit: object = "") -> None:
        super().__init__(why)
        self.field = field
        self.value = str(value)
        self.limit = str(limit)


class KeyEmptyError(InputError):
    """A key has at least one byte."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} is empty: a key has 1 to {KEY_BYTES_MAX} bytes", field=field, value=0, limit=KEY_BYTES_MAX)


class KeyTooLargeError(InputError):
    """A key is longer than the store can index."""

    def __init__(self, field: str, size: int) -> None:
        super().__init__(
            f"{field} has {size} bytes, the most is {KEY_BYTES_MAX}: hash long keys before they are stored",
            field=field,
            value=size,
            limit=KEY_BYTES_MAX,
        )


class ValueTooLargeError(InputError):
    """A value is larger than the server was told to take."""

    def __init__(self, field: str, size: int, limit: int) -> None:
        super().__init__(
            f"{field} has {size} bytes, the most is {limit}: split it, or raise --value-bytes-max on every replica",
            field=field,
            value=size,
            limit=limit,
        )


class RequestTooLargeError(InputError):
    """A request is larger than the server was told to take."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the request has {size} bytes, the most is {limit}: send less, or raise --request-bytes-max on every replica",
            field="request",
            value=size,
            limit=limit,
        )


class AnswerTooLargeError(InputError):
    """A batch asked for more than one answer may hold."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a value of {size} bytes does not fit any more into one answer of at most {limit}: ask for this key by itself",
            field="answer",
            value=size,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server, in bytes unless the name says otherwise."""

    value_bytes_max: int = VALUE_BYTES_MAX
    request_bytes_max: int = 4 << 20
    session_requests_max: int = 64  # of one Session stream, read and not yet answered
    session_bytes_max: int = 16 << 20  # the same, in bytes of requests and of values read for them; the oldest is always served
    watches_max: int = 1_024  # streams of Watch served at once
    answer_bytes_max: int = 32 << 20  # of the values that one Session request reads; further gets in it are refused

    def key(self, key: bytes, field: str = "key") -> None:
        """Raise KeyEmptyError or KeyTooLargeError unless `key` can be stored."""
        if not 0 < len(key) <= KEY_BYTES_MAX:
            if not key:
                raise KeyEmptyError(field)
            raise KeyTooLargeError(field, len(key))

    def value(self, value: bytes, field: str = "value") -> None:
        if len(value) > self.value_bytes_max:
            raise ValueTooLargeError(field, len(value), self.value_bytes_max)

    def pair(self, key: bytes, value: bytes) -> None:
        """Both checks in one call, for the hot path."""
        if not 0 < len(key) <= KEY_BYTES_MAX:
            self.key(key)
        if len(value) > self.value_bytes_max:
            self.value(value)

    def request(self, size: int) -> None:
        if size > self.request_bytes_max:
            raise RequestTooLargeError(size, self.request_bytes_max)

    def batch(self, count: int, field: str, *, least: int = 1) -> None:
        """Raise InputError unless a batch holds `least` to BATCH_COMMANDS_MAX parts."""
        if not least <= count <= BATCH_COMMANDS_MAX:
            raise InputError(
                f"{field} holds {count} parts, it may hold {least} to {BATCH_COMMANDS_MAX}: send more than one request",
                field=field,
                value=count,
                limit=BATCH_COMMANDS_MAX,
            )

    def scan(self, start: bytes, end: bytes, page_keys: int) -> int:
        """How many keys a page holds. Raises InputError for bounds that cannot be keys or a page that is too large."""
        for field, bound in (("start", start), ("end", end)):
            if len(bound) > KEY_BYTES_MAX:
                raise KeyTooLargeError(field, len(bound))
        if page_keys > PAGE_KEYS_MAX:
            raise InputError(
                f"page_keys_max is {page_keys}, the most is {PAGE_KEYS_MAX}: ask for more pages instead",
                field="page_keys_max",
                value=page_keys,
                limit=PAGE_KEYS_MAX,
            )
        return page_keys or PAGE_KEYS_DEFAULT

    def watch(self, request: WatchRequest) -> tuple[bytes, bytes]:
        """Return the range of a watch, its end exclusive and empty for none.

        Raises InputError where it holds no key, and for slots that do not exist or are named twice.
        """
        key, start, end = request.key, request.start, request.end
        if request.slots:
            slots = [slot for wanted in request.slots for slot in wanted.slots]
            if not slots or max(slots) >= SLOT_COUNT or len(set(slots)) != len(slots):
                raise InputError(f"slots are numbers below {SLOT_COUNT}, each of them once", field="slots")
            if request.from_revision:
                raise InputError("a watch that names slots names the first revision of each, and no other", field="from_revision")
        if not key:
            for field, bound in (("start", start), ("end", end)):
                if len(bound) > KEY_BYTES_MAX:
                    raise KeyTooLargeError(field, len(bound))
            if end and start >= end:
                raise InputError("no key lies between start and end: end must be above start", field="end", value=end[:64].hex())
            return start, end
        self.key(key)
        if start or end or request.slots:
            raise InputError("a watch is for a key or for a range: leave key out, or start, end and slots", field="key")
        return key, key + b"\0"

    def progress_s(self, progress_ms: int) -> float:
        """How often a watch says how far it is, in seconds. Raises InputError."""
        if progress_ms and not PROGRESS_MS_MIN <= progress_ms <= PROGRESS_MS_MAX:
            raise InputError(
                f"progress_ms is {progress_ms}, it may be {PROGRESS_MS_MIN} to {PROGRESS_MS_MAX}",
                field="progress_ms",
                value=progress_ms,
                limit=PROGRESS_MS_MAX if progress_ms > PROGRESS_MS_MAX else PROGRESS_MS_MIN,
            )
        return (progress_ms or PROGRESS_MS_DEFAULT) / 1_000
