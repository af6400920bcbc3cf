"""The one map from exceptions to the wire: nothing is missing from it, and nothing too large leaves."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from google.rpc import code_pb2

from ravel_node.machine import members
from ravel_node.raft import errors as raft_errors
from ravel_node.raft.types import Index, ReplicaId
from ravel_node.replica import errors as replica_errors
from ravel_node.server import errors as server_errors
from ravel_node.server import limits
from ravel_node.server.errors import FATAL, STATUS_OF, fields_of, is_refusal, status_and_reason, to_rpc_status
from ravel_node.storage import base as storage_base
from ravelpb.errors import Field, Reason
from tests.server.fakes import info_of_status

NEVER_ON_THE_WIRE = {
    raft_errors.InvariantError,  # a fault of ours: INTERNAL with an id
    raft_errors.DivergedError,  # it stops the replica
    raft_errors.RaftConfigError,  # at start only
}


def exceptions_of(module: ModuleType) -> set[type[Exception]]:
    return {
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("module", [replica_errors, storage_base, raft_errors, limits, server_errors], ids=lambda m: m.__name__)
def test_every_refusal_is_mapped_itself_not_by_its_parent(module: ModuleType) -> None:
    found = exceptions_of(module)
    assert found
    assert found - NEVER_ON_THE_WIRE - STATUS_OF.keys() == set()


def test_codes_and_reasons_are_real_and_distinct_where_programs_tell_them_apart() -> None:
    for code, reason in STATUS_OF.values():
        assert code_pb2.Code.Name(code)
        assert isinstance(reason, Reason)
    reasons = [STATUS_OF[kind][1] for kind in exceptions_of(replica_errors) if kind is not replica_errors.LeadershipLostError]
    shared = {reason for reason in reasons if reasons.count(reason) > 1}
    assert shared == {Reason.INVALID_ARGUMENT}  # the two general classes


def test_an_unknown_outcome_is_never_dressed_as_anything_else() -> None:
    unknown = {kind for kind, (_, reason) in STATUS_OF.items() if reason is Reason.OUTCOME_UNKNOWN}
    assert unknown == {
        replica_errors.OutcomeUnknownError,
        replica_errors.LeadershipLostError,
        server_errors.ResultForgottenError,
    }


def test_a_new_leaf_is_what_its_parent_is() -> None:
    class NewError(replica_errors.StaleViewError):
        pass

    assert status_and_reason(NewError("moved", "look again")) == (code_pb2.ABORTED, Reason.STALE_VIEW)
    assert fields_of(NewError("moved", "look again")) == {Field.NEXT_STEP: "look again"}


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (replica_errors.AlreadyMemberError("c" * 32, ReplicaId(4)), {Field.CLUSTER_ID: "c" * 32, Field.REPLICA_ID: "4"}),
        (replica_errors.UnsafeChangeError("it loses quorum", "wait"), {Field.NEXT_STEP: "wait"}),
        (replica_errors.UnsafeChangeError("it loses quorum"), {}),
        (server_errors.LogCompactedError(3, 9), {Field.FIRST_INDEX: "9"}),
        (server_errors.NoSuchThingError("none", what="name", value="x"), {Field.FIELD: "name", Field.VALUE: "x"}),
        (limits.KeyEmptyError("key"), {Field.FIELD: "key", Field.VALUE: "0", Field.LIMIT: "480"}),
    ],
)
def test_values_that_programs_need(error: Exception, fields: dict[Field, str]) -> None:
    assert fields_of(error) == fields
    assert dict(info_of_status(to_rpc_status(error)).metadata) == {str(key): value for key, value in fields.items()}


def test_an_error_fits_the_headers_it_travels_in() -> None:
    for letter in ("x", "%", "ü", "\N{GRINNING FACE}", "\ud800"):
        status = to_rpc_status(limits.InputError(letter * 100_000, field=letter * 10_000, value=letter * 10_000))
        size = len(status.message.encode())
        assert server_errors.MESSAGE_BYTES_MAX - 4 < size <= server_errors.MESSAGE_BYTES_MAX
        assert 3 * size + status.ByteSize() * 4 // 3 < 8_000


def test_faults_tell_an_id_that_differs_each_time() -> None:
    first, second = to_rpc_status(KeyError("secret")), to_rpc_status(KeyError("secret"))
    assert first.code == second.code == code_pb2.INTERNAL
    assert server_errors.fault_id(first) != server_errors.fault_id(second)
    assert server_errors.fault_id(first) in first.message
    assert "secret" not in first.message
    assert server_errors.fault_id(to_rpc_status(replica_errors.BlankError())) == ""
    assert not is_refusal(KeyError())
    assert is_refusal(members.MemberRecordError("bad name"))


def test_fatal_ones_are_not_caught_by_accident() -> None:
    assert set(FATAL) == {raft_errors.InvariantError, storage_base.StoreFailedError, storage_base.DamagedError}
    assert not is_refusal(raft_errors.InvariantError("1 is not 2"))


def test_messages_are_sentences_with_their_values() -> None:
    assert "481" in str(limits.KeyTooLargeError("key", 481))
    assert "480" in str(limits.KeyTooLargeError("key", 481))
    assert "--value-bytes-max" in str(limits.ValueTooLargeError("value", 9, 8))
    assert "--request-bytes-max" in str(limits.RequestTooLargeError(9, 8))
    assert Index(9) == server_errors.LogCompactedError(3, 9).first_index
