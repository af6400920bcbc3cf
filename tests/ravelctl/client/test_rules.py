"""The table of reasons: complete, and as the server means its reasons."""

from __future__ import annotations

import pytest

from ravelctl.client.connection import rules
from ravelctl.client.connection.failures import ConnectionLostError, NotOfferedError, SlowError, hanging
from ravelctl.client.connection.rules import NOTHING_DONE, RETRYABLE, RULES, Next, nothing_unanswered_was_done, rule_of
from ravelctl.client.errors import CLASS_OF, LocalReason, RavelError, UnreachableError, WrongServerError
from ravelpb.errors import Field, Reason

ELSEWHERE = {
    Reason.NOT_LEADER,
    Reason.REMOVED,
    Reason.DIRECTORY_OUTDATED,
    Reason.DIRECTORY_COPIED,
    Reason.SHUTTING_DOWN,
    Reason.STOPPED,
    Reason.OUTCOME_UNKNOWN,
    Reason.TIMEOUT,
}
LATER = {Reason.NO_LEADER, Reason.BLANK, Reason.BUSY}
OTHER_ADDRESS = {Reason.WRONG_CLUSTER_ID, Reason.NOT_ADMIN, Reason.ADMIN_GROUP}
NEW_MAP = {Reason.WRONG_CLUSTER, Reason.SLOT_MOVING}
PROVES_NOTHING = {Reason.STOPPED, Reason.OUTCOME_UNKNOWN, Reason.TIMEOUT, Reason.TRANSFER_FAILED, Reason.INTERNAL}


@pytest.mark.parametrize("reason", [*Reason, *LocalReason])
def test_every_reason_has_a_rule(reason: Reason | LocalReason) -> None:
    assert reason in RULES
    kind = CLASS_OF[reason] if isinstance(reason, Reason) else RavelError
    error = kind("x", reason=reason, metadata={Field.CLUSTER_ID: "c" * 32})
    assert rule_of(error) == RULES[reason]


@pytest.mark.parametrize("reason", list(Reason))
def test_what_is_done_next(reason: Reason) -> None:
    expected = {
        **dict.fromkeys(ELSEWHERE, Next.ELSEWHERE),
        **dict.fromkeys(LATER, Next.LATER),
        **dict.fromkeys(OTHER_ADDRESS, Next.OTHER_ADDRESS),
        **dict.fromkeys(NEW_MAP, Next.NEW_MAP),
        Reason.SESSION_EXPIRED: Next.NEW_SESSION,
    }.get(reason, Next.RAISE)
    assert RULES[reason].next is expected


@pytest.mark.parametrize("reason", list(Reason))
def test_what_an_answer_proves(reason: Reason) -> None:
    """A shutdown proves it too: a command that is in the log by then is answered with OUTCOME_UNKNOWN."""
    assert RULES[reason].nothing_done is (reason not in PROVES_NOTHING)
    assert (reason in NOTHING_DONE) is (reason not in PROVES_NOTHING)
    assert (reason in RETRYABLE) is (reason in ELSEWHERE | LATER)


def test_a_connection_that_was_never_made_proves_more_than_one_that_was_lost() -> None:
    assert rule_of(UnreachableError("x")).nothing_done
    for lost in (ConnectionLostError("x"), hanging("a:1"), SlowError("x")):
        assert rule_of(lost) == (Next.ELSEWHERE, False)
    assert rule_of(NotOfferedError("x")) == (Next.OTHER_ADDRESS, True)
    assert set(Reason) >= NOTHING_DONE  # by UNREACHABLE alone nobody can tell the two apart
    assert LocalReason.UNREACHABLE in RETRYABLE


def test_the_admin_s_refusal_of_a_server_says_nothing_about_the_address() -> None:
    """It has the same reason as the refusal of a call for another cluster, but names no cluster: it is final."""
    assert rule_of(WrongServerError("not in the list", reason=Reason.WRONG_CLUSTER_ID)).next is Next.RAISE
    other = WrongServerError("x", reason=Reason.WRONG_CLUSTER_ID, metadata={Field.CLUSTER_ID: "c" * 32})
    assert rule_of(other).next is Next.OTHER_ADDRESS


@pytest.mark.parametrize("reason", [*Reason, *LocalReason])
def test_a_stream_s_end_proves_something_only_where_the_server_read_nothing_more(reason: Reason | LocalReason) -> None:
    kind = CLASS_OF[reason] if isinstance(reason, Reason) else RavelError
    proves = {Reason.BLANK, Reason.BUSY, Reason.SHUTTING_DOWN, Reason.WRONG_CLUSTER_ID, Reason.ADMIN_GROUP}
    assert nothing_unanswered_was_done(kind("x", reason=reason)) is (reason in proves)
    assert proves == rules._REFUSES_STREAM
    assert nothing_unanswered_was_done(NotOfferedError("x"))
