"""Every way to fail has its exit code."""

from __future__ import annotations

import pytest

from ravelctl.cli.app import App
from ravelctl.cli.dial import command_error, exit_code
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.reasons import EXIT_OF
from ravelctl.client.errors import CLASS_OF, LocalReason, RavelError
from ravelpb.errors import Reason


def test_every_reason_has_an_exit_code() -> None:
    assert set(EXIT_OF) == set(Reason)


@pytest.mark.parametrize("reason", [*Reason, *LocalReason])
def test_every_error_of_the_client_ends_a_command_by_its_reason(reason: Reason | LocalReason) -> None:
    kind = CLASS_OF[reason] if isinstance(reason, Reason) else RavelError
    told = command_error(kind("it went wrong", reason=reason, metadata={"limit": "3"}), App())
    assert told.code is exit_code(kind("it went wrong", reason=reason))
    assert told.code is not ExitCode.DONE
    assert told.message.startswith("it went wrong")
    assert (told.reason, told.metadata["limit"]) == (reason.value, "3")


def test_the_table_of_exit_codes_never_changes() -> None:
    numbers = {code.name: int(code) for code in ExitCode}
    assert numbers == {
        "DONE": 0, "FAILED": 1, "USAGE": 2, "UNREACHABLE": 3, "NO_LEADER": 4, "REFUSED": 5, "OUTCOME_UNKNOWN": 6,
        "DEGRADED": 7, "DAMAGED": 8, "NOT_ALLOWED": 9, "TIMED_OUT": 124, "INTERRUPTED": 130,
    }  # fmt: skip


def test_an_unknown_outcome_is_neither_failure_nor_success() -> None:
    assert EXIT_OF[Reason.OUTCOME_UNKNOWN] is ExitCode.OUTCOME_UNKNOWN
    assert EXIT_OF[Reason.SESSION_EXPIRED] is ExitCode.OUTCOME_UNKNOWN


def test_a_servers_next_step_beats_ours() -> None:
    said = RavelError("no", reason=Reason.UNKNOWN_MEMBER, next_step="do this")
    assert command_error(said, App()).next_step == "do this"
    assert "member list" in command_error(RavelError("no", reason=Reason.UNKNOWN_MEMBER), App()).next_step
