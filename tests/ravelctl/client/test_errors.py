"""The map from the wire into the client's errors."""

from __future__ import annotations

import pickle
import subprocess
import sys
from copy import copy

import grpc
import pytest
from google.rpc import status_pb2
from grpc import aio

import ravelctl.client
from ravelctl.client import errors
from ravelctl.client.connection.failures import from_rpc_error
from ravelctl.client.connection.rules import NOTHING_DONE, RETRYABLE
from ravelctl.client.errors import (
    CLASS_OF,
    AlreadyMemberError,
    BusyError,
    CompactedError,
    DeadlineError,
    InternalError,
    InvalidArgumentError,
    LocalReason,
    NotLeaderError,
    RavelError,
    RefusedError,
    UnreachableError,
    UnsupportedVersionError,
    from_status,
)
from ravelpb.errors import Field, Reason
from tests.ravelctl.client.fake_server import make_status

LEAVES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RavelError) and kind is not RavelError
]


def rpc_error(code: grpc.StatusCode, details: str = "", status: status_pb2.Status | None = None) -> aio.AioRpcError:
    trailing = aio.Metadata() if status is None else aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return aio.AioRpcError(code, aio.Metadata(), trailing, details)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_class_and_survives_the_way(reason: Reason) -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.ABORTED, "x", make_status(reason, "why", {Field.VALUE: "7"})))
    assert type(error) is CLASS_OF[reason]
    assert error.reason is reason
    assert error.message == "why"
    assert error.metadata == {"value": "7"}


@pytest.mark.parametrize("kind", LEAVES)
def test_every_leaf_is_public_and_stands_for_a_reason(kind: type[RavelError]) -> None:
    assert getattr(ravelctl.client, kind.__name__) is kind
    assert kind in CLASS_OF.values() or isinstance(kind.default_reason, LocalReason)
    assert kind("x").reason == kind.default_reason
    if isinstance(kind.default_reason, Reason):
        assert CLASS_OF[kind.default_reason] is kind


def test_an_unknown_outcome_is_neither_a_proof_nor_final() -> None:
    assert Reason.OUTCOME_UNKNOWN not in NOTHING_DONE
    assert Reason.OUTCOME_UNKNOWN in RETRYABLE
    assert not NOTHING_DONE & {Reason.STOPPED, Reason.INTERNAL, Reason.TIMEOUT, Reason.TRANSFER_FAILED}


def test_a_reason_of_a_later_version_is_internal() -> None:
    error = from_status(make_status("FROM_THE_FUTURE", "something new"))
    assert type(error) is InternalError
    assert "something new" in error.message


def test_a_status_without_our_info_is_internal() -> None:
    assert type(from_status(status_pb2.Status(code=13, message="oops"))) is InternalError


def test_values_are_read_from_metadata() -> None:
    fields = {Field.LEADER_ID: "3", Field.LEADER_ADDRESS: "127.0.0.1:7400"}
    error = from_status(make_status(Reason.NOT_LEADER, "no", fields))
    assert isinstance(error, NotLeaderError)
    assert (error.leader_id, error.leader_address) == (3, "127.0.0.1:7400")
    assert NotLeaderError("no").leader_id == 0
    assert BusyError("b", metadata={Field.RETRY_AFTER_MS: "250"}).retry_after_s == 0.25
    assert CompactedError("c", metadata={Field.FIRST_INDEX: "9"}).first_index == 9
    assert CompactedError("c", metadata={Field.FIRST_INDEX: "-9"}).first_index == 0
    member = AlreadyMemberError("m", metadata={Field.CLUSTER_ID: "ab", Field.REPLICA_ID: "2"})
    assert (member.cluster_id, member.replica_id) == ("ab", 2)


def test_the_next_step_is_told_with_the_message() -> None:
    error = from_status(make_status(Reason.UNSAFE_CHANGE, "it would lose quorum", {Field.NEXT_STEP: "add a member first"}))
    assert isinstance(error, RefusedError)
    assert error.next_step == "add a member first"
    assert str(error) == "it would lose quorum: add a member first"


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect: ipv4:127.0.0.1:1: Connection refused", UnreachableError),
        (grpc.StatusCode.CANCELLED, "", UnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineError),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", UnsupportedVersionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5 vs. 4)", InvalidArgumentError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", BusyError),
        (grpc.StatusCode.UNKNOWN, "boom", InternalError),
    ],
)
def test_a_bare_code_says_what_it_can(code: grpc.StatusCode, details: str, kind: type[RavelError]) -> None:
    error = from_rpc_error(rpc_error(code, details), "127.0.0.1:1")
    assert isinstance(error, kind)
    assert error.reason == kind.default_reason or error.reason is Reason.REQUEST_TOO_LARGE
    assert "127.0.0.1:1" in error.message


def test_the_cause_that_people_look_for_stands_at_the_end() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "all failed: ipv4:1: Connection refused"), "a:1")
    assert error.message == "a:1 cannot be reached: connection refused"


def test_a_server_that_goes_away_is_told_in_our_words() -> None:
    debug = "GOAWAY received; Error code: 2; Debug Text: Cancelling all calls {http2_error:2}"
    for details in (debug, "Cancelling all calls"):
        found = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, details), "10.0.0.1:7400")
        assert found.message == "10.0.0.1:7400 cannot be reached: it closed the connection"


def test_errors_can_be_copied_and_pickled() -> None:
    error = from_status(make_status(Reason.KEY_TOO_LARGE, "key has 481 bytes", {Field.LIMIT: "480", Field.NEXT_STEP: "shorten"}))
    for twin in (copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is InvalidArgumentError
        assert (str(twin), twin.message, twin.reason, twin.metadata) == (str(error), error.message, error.reason, error.metadata)


def loaded_by(code: str) -> set[str]:
    program = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_catching_errors_loads_no_grpc() -> None:
    loaded = loaded_by("from ravelctl.client import RavelError, Put, RetryPolicy, Consistency")
    assert not loaded & {"grpc", "google.protobuf", "asyncio"}


def test_the_library_loads_nothing_of_the_others() -> None:
    loaded = loaded_by("from ravelctl.client import RavelClient, ClusterClient, InspectClient")
    assert "grpc" in loaded
    assert not loaded & {"ravel_node", "lmdb", "textual", "click", "rich", "structlog"}
