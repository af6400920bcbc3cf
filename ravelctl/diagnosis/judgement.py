"""`doctor`'s judgement: from what was seen to findings, each with its code, evidence, cause and cure. Pure.

The rules stand in tables by family: no leader (leaderless.py), replication and disk (replicas.py), membership (seats.py),
configuration and security (settings.py), data (data.py). A rule looks at the whole picture and says what it finds; what one
finding makes superfluous is left out here, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import count_text
from ravelctl.diagnosis import data, leaderless, replicas, seats, settings
from ravelctl.diagnosis.codes import HIDES
from ravelctl.diagnosis.finding import Finding
from ravelctl.diagnosis.seen import Picture, Seen
from ravelpb.alarms import Severity

Rule = Callable[[Picture], Iterator[Finding]]

RULES: Final[tuple[Rule, ...]] = (*leaderless.RULES, *replicas.RULES, *seats.RULES, *settings.RULES, *data.RULES)

_WORST_FIRST: Final = (ExitCode.DAMAGED, ExitCode.NO_LEADER, ExitCode.UNREACHABLE, ExitCode.DEGRADED)

_SAME_CAUSE: Final = dict.fromkeys(("RV108", "RV109", "RV206", "RV406"), ("RV201", "RV202", "RV203"))
"""A finding that says why a replica lags or is not heard, and those about the same replica which only say that."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    cluster_id: str
    cluster_name: str
    findings: tuple[Finding, ...]  # the worst first
    checked: tuple[str, ...]  # what was looked at, in words
    unanswered: bool = False  # daemons were asked, and none of them told how it does

    @property
    def exit(self) -> ExitCode:
        ends = {finding.exit for finding in self.findings} | ({ExitCode.UNREACHABLE} if self.unanswered else set())
        return next((code for code in _WORST_FIRST if code in ends), ExitCode.DONE)


def diagnose(seen: Seen) -> Diagnosis:
    """All that is wrong, the worst first; of findings about the same thing the one that says more."""
    picture = Picture.of(seen)
    found = {(finding.code, finding.subject): finding for finding in reversed([f for rule in RULES for f in rule(picture)])}
    superfluous = set(_superfluous(found.values()))
    findings = [finding for key, finding in found.items() if key not in superfluous]
    return Diagnosis(
        cluster_id=picture.cluster_id,
        cluster_name=_cluster_name(picture),
        findings=tuple(sorted(findings, key=lambda f: (-f.severity, f.code, f.subject))),
        checked=tuple(_checked(picture)),
        unanswered=bool(seen.doors) and all(door.status is None for door in seen.doors),
    )


def _superfluous(findings: Iterable[Finding]) -> Iterator[tuple[str, str]]:
    for finding in findings:
        if lesser := HIDES.get(finding.code):
            yield lesser, finding.subject
        for code in _SAME_CAUSE.get(finding.code, ()):
            yield code, finding.subject


def _cluster_name(p: Picture) -> str:
    if p.chief is not None:
        return p.chief.cluster_name
    return next((d.cluster_name for d in p.seen.directories if d.cluster_id == p.cluster_id and d.cluster_name), "")


def _checked(p: Picture) -> Iterator[str]:
    if p.seen.doors:
        answers = [door.status.server.name for door in p.seen.doors if door.status is not None]
        names = f" ({', '.join(dict.fromkeys(answers))})" if answers else ""
        yield f"{len(answers)} of {count_text(len(p.seen.doors), 'daemon')} answered{names}"
    for directory in p.seen.directories:
        held = f" (open in process {directory.owner})" if directory.owner else ""
        yield f"directory {directory.path}{held}" + (f", but for {directory.unread}" if directory.unread else "")
    if p.statuses:
        yield "leadership, replication, disks, membership, versions, settings, clocks, TLS"


def severity_word(severity: Severity) -> str:
    return severity.name.lower()
