"""How a command fails: one sentence with the values that matter, what to do next, and an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ravelctl.cli.exit_codes import ExitCode

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class CommandError(Exception):
    """Ends a command. `reason` is a `ravelpb.errors.Reason`, or a word of our own in the same spelling."""

    def __init__(
        self,
        message: str,
        *,
        code: ExitCode = ExitCode.FAILED,
        next_step: str = "",
        reason: str = "",
        metadata: Mapping[str, str] = NOTHING,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.next_step = next_step
        self.reason = reason or code.name
        self.metadata = dict(metadata)

    def __str__(self) -> str:
        return self.message


def usage_error(message: str, next_step: str = "") -> CommandError:
    """The command line is wrong: nothing was sent anywhere."""
    return CommandError(message, code=ExitCode.USAGE, next_step=next_step)
