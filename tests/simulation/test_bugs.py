"""The simulator sees bugs. The quick ones are planted here; `make sim-bugs` plants all of them."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.run import find

QUICK = (
    "vote-not-stored",
    "vote-before-save",
    "commit-of-an-old-term",
    "snapshot-without-membership",
    "applied-index-not-stored",
    "segment-out-of-order",
    "results-lost-in-a-snapshot",
    "retry-applied-twice",
    "lease-outlives-leadership",
    "lease-outlives-configuration",
    "lease-despite-transfer",
    "lease-from-the-answer",
    "lease-too-long",
    "clock-read-too-early",
)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in QUICK], ids=lambda bug: bug.name)
def test_is_seen(bug: Bug) -> None:
    finding = find(bug)
    assert finding.seeds, f"{bug.rule}: left out, and {finding.shown}"


def test_names_are_known() -> None:
    assert set(QUICK) <= {bug.name for bug in BUGS}
