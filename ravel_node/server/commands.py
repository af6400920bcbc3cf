"""Client requests to commands of the log, and outcomes back to answers. One entry a kind of write, the same for unary calls and
Session.

Encoding checks the limits and raises `InputError`; nothing that breaks a bound reaches the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome, Status
from ravel_node.machine.envelope import Once
from ravel_node.machine.ownership import Ownership, refused_slot
from ravel_node.replica.errors import SlotMovingError, WrongSlotError
from ravel_node.replica.reads import ReadMode
from ravel_node.server.errors import ResultForgottenError, SessionExpiredError
from ravel_node.server.limits import InputError, Limits
from ravelpb.slots import slot_of
from ravelpb.v1 import common_pb2, kv_pb2


class Write(NamedTuple):
    """How one kind of write is encoded and answered."""

    encode: Callable[[Any, Limits], tuple[bytes, bool]]  # the command, and whether it makes the store grow (see Replica.propose)
    response: Callable[[], Any]  # a new, empty one
    answer: Callable[[Any, Outcome], None]  # fills a response, all but its header


def encode_put(request: kv_pb2.PutRequest, limits: Limits) -> tuple[bytes, bool]:
    key, value = request.key, request.value
    limits.pair(key, value)
    return envelope.put(key, value), True


def answer_put(response: kv_pb2.PutResponse, outcome: Outcome) -> None:
    response.revision = outcome.revision


def _encode_delete(request: kv_pb2.DeleteRequest, limits: Limits) -> tuple[bytes, bool]:
    limits.key(request.key)
    return envelope.delete(request.key), False


def _answer_delete(response: kv_pb2.DeleteResponse, outcome: Outcome) -> None:
    response.revision, response.found = outcome.revision, outcome.found


def _encode_get_and_delete(request: kv_pb2.GetAndDeleteRequest, limits: Limits) -> tuple[bytes, bool]:
    limits.key(request.key)
    return envelope.get_and_delete(request.key), False


def _answer_get_and_delete(response: kv_pb2.GetAndDeleteResponse, outcome: Outcome) -> None:
    response.revision, response.value, response.found = outcome.revision, outcome.value, outcome.found


def _encode_compare_and_swap(request: kv_pb2.CompareAndSwapRequest, limits: Limits) -> tuple[bytes, bool]:
    limits.pair(request.key, request.value)
    return envelope.compare_and_swap(request.key, request.expected_revision, request.value), True


def _answer_compare_and_swap(response: kv_pb2.CompareAndSwapResponse, outcome: Outcome) -> None:
    response.revision = outcome.revision
    if outcome.status is Status.OK:
        response.swapped = True
    else:
        response.value, response.found = outcome.value, outcome.found


def _encode_write(request: kv_pb2.WriteRequest, limits: Limits) -> tuple[bytes, bool]:
    limits.request(request.ByteSize())
    limits.batch(len(request.conditions), "conditions", least=0)
    limits.batch(len(request.operations), "operations")
    conditions = [(condition.key, condition.revision) for condition in request.conditions]
    for key, _ in conditions:
        limits.key(key, "conditions.key")
    operations: dict[bytes, bytes | None] = {}
    for operation in request.operations:
        key, value = _operation(operation)
        limits.key(key, "operations.key")
        if value is not None:
            limits.value(value, "operations.value")
        if key in operations:
            raise InputError(
                f"two operations of one write have the same key of {len(key)} bytes: a key may be operated on once",
                field="operations.key",
                value=key[:64].hex(),
            )
        operations[key] = value
    return envelope.write(conditions, list(operations.items())), any(value is not None for value in operations.values())


def _operation(operation: kv_pb2.Operation) -> tuple[bytes, bytes | None]:
    """Key and new value, None for a delete."""
    match operation.WhichOneof("op"):
        case "put":
            return operation.put.key, operation.put.value
        case "delete":
            return operation.delete.key, None
    raise InputError("an operation of the write is neither put nor delete", field="operations.op")


def _answer_write(response: kv_pb2.WriteResponse, outcome: Outcome) -> None:
    response.revision = outcome.revision
    if outcome.status is Status.OK:
        response.done = True
    else:
        response.failed_key, response.value = envelope.split_failed_condition(outcome.value)
        response.found = outcome.found


WRITES: Final[dict[str, Write]] = {
    "put": Write(encode_put, kv_pb2.PutResponse, answer_put),
    "delete": Write(_encode_delete, kv_pb2.DeleteResponse, _answer_delete),
    "get_and_delete": Write(_encode_get_and_delete, kv_pb2.GetAndDeleteResponse, _answer_get_and_delete),
    "compare_and_swap": Write(_encode_compare_and_swap, kv_pb2.CompareAndSwapResponse, _answer_compare_and_swap),
    "write": Write(_encode_write, kv_pb2.WriteResponse, _answer_write),
}
"""By the names of `Command.op`, which are also those of `Result.result`."""


def once_of(once: common_pb2.Once) -> Once:
    """The session and sequence of a write. Raises InputError for numbers that start at 1 and do not."""
    for field in ("client_id", "sequence"):
        if not getattr(once, field):
            raise InputError(
                f"once.{field} is 0: it starts at 1; leave out `once` for a write without a session", field=f"once.{field}"
            )
    return Once(once.client_id, once.sequence, once.acked_below)


def check_outcome(outcome: Outcome, once: Once | None, offset: int = 0) -> None:
    """Raise what an outcome that is no answer becomes. CONDITION_FAILED is an answer."""
    status = outcome.status
    if status is Status.OK or status is Status.CONDITION_FAILED:
        return
    if status is Status.SESSION_EXPIRED:
        raise SessionExpiredError(once.client_id if once else 0)
    if status is Status.RESULT_FORGOTTEN:
        raise ResultForgottenError(once.sequence + offset if once else 0)
    if status is Status.WRONG_CLUSTER:
        raise WrongSlotError(refused_slot(outcome), outcome.revision)
    if status is Status.SLOT_MOVING:
        raise SlotMovingError(refused_slot(outcome), outcome.revision)
    raise InputError(outcome.value.decode(errors="replace") or "the command was refused by every replica", field="command")


def check_owned(ownership: Ownership, key: bytes) -> None:
    """Raises WrongSlotError for a key that this cluster does not answer for (any more, or yet), in whatever mode it is read."""
    if not ownership.readable(key):
        raise WrongSlotError(slot_of(key), ownership.map_version)


_MODES: Final = {int(mode): mode for mode in ReadMode}


def mode_of(consistency: int) -> ReadMode:
    """Raises InputError for a number of a later version."""
    mode = _MODES.get(consistency)
    if mode is None:
        raise InputError(
            f"consistency {consistency} is none of 0 (linearizable), 1 (quorum) and 2 (stale)",
            field="consistency",
            value=consistency,
        )
    return mode
