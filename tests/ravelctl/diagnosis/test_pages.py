"""docs/doctor.md says what the table of codes says."""

from __future__ import annotations

from tests.ravelctl.diagnosis import pages


def test_the_page_is_current() -> None:
    assert pages.PATH.read_text() == pages.text(), "run `python -m tests.ravelctl.diagnosis.pages`"
