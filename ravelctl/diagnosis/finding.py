"""A finding: what a rule concludes, with the values that it concludes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.diagnosis.codes import CODES, unknown
from ravelpb.alarms import Severity


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    severity: Severity
    subject: str  # what it is about: a replica's name, an address, a path; empty: the cluster
    sentence: str  # with the values
    seen: tuple[str, ...]  # evidence, a line each
    why: str  # the cause
    do: str  # the next step, with a command where there is one
    exit: ExitCode


def finding(
    code: str,
    subject: str,
    sentence: str,
    seen: Iterable[str] = (),
    *,
    why: str = "",
    do: str = "",
    severity: Severity | None = None,
) -> Finding:
    """A finding of a known code; what is not given is the code's own. `severity` is for codes of newer daemons."""
    kind = CODES.get(code) or unknown(code, severity or Severity.CRITICAL)
    return Finding(code, kind.severity, subject, sentence, tuple(seen), why or kind.cause, do or kind.cure, kind.exit)
