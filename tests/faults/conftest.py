"""Gathers what each fault came to, and prints it as a table when the tests are run from this folder (`make faults`)."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.ordeal import BUSY_ALLOWANCE_S, ELECTION_TIMEOUT_S, RECOVERY_TIMEOUTS, Ordeal, Row, running

PROPERTY: Final = "fault"

Trial = Callable[..., AbstractAsyncContextManager[Ordeal]]


@pytest.fixture
def trial(tmp_path: Path, record_property: Callable[[str, object], None]) -> Trial:
    """`ordeal.running` in this test's folder; its row goes into the summary."""

    @asynccontextmanager
    async def begin(fault: str, **options: Any) -> AsyncIterator[Ordeal]:
        async with running(tmp_path, fault, **options) as ordeal:
            yield ordeal
        record_property(PROPERTY, ordeal.row.encode())

    return begin


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The properties of a test travel with its report, also from another process (pytest-xdist)."""
    rows = [
        Row.decode(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    head = f"{'fault':<64}{'times':>7}{'operations':>12}{'unknown':>9}  recovery, s: median (most)"
    write(head)
    for row in sorted(rows, key=lambda row: row.fault):
        shown = f"{statistics.median(row.recoveries_s):.2f} ({max(row.recoveries_s):.2f})" if row.recoveries_s else "-"
        write(f"{row.fault:<64}{row.times:>7}{row.operations:>12}{row.unknown:>9}  {shown}")
    bound_s = RECOVERY_TIMEOUTS * ELECTION_TIMEOUT_S
    write(f"Recovery must come within {RECOVERY_TIMEOUTS} election timeouts, {bound_s:g} s. A busy machine may add")
    write(f"{BUSY_ALLOWANCE_S:g} s, and the time for which the test's own process was kept waiting.")
