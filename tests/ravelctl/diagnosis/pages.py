"""docs/doctor.md, made from the table of codes: `python -m tests.ravelctl.diagnosis.pages` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ravelctl.diagnosis.codes import CODES, FAMILIES

PATH: Final = Path(__file__).parents[3] / "docs" / "doctor.md"

_HEAD: Final = """\
# What doctor finds

Every code that `ravelctl doctor` prints, and what it means; `ravelctl doctor CODE` prints the same. A code never changes its
meaning. Where the evidence is "the alarm that a replica raises itself", the code also stands in `status`, in `/metrics` and among
the events ([operations.md](operations.md#alarms)); doctor shows it with what else it sees.

A *critical* finding asks to be looked at now, a *warning* when there is time; a *notice* says that something is as it is, and
leaves the exit code alone. Of the exit codes of all findings the worst one counts: 8 damaged data, 4 no leader, 3 nobody answers,
7 all else. Where no daemon at all tells how it does, it is 8, 4 or 3.

This page is made from the table in `ravelctl/diagnosis/codes.py`.
"""


def text() -> str:
    return "\n".join(_lines()).rstrip("\n") + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for head, title in FAMILIES.items():
        yield f"## {head}xx: {title}"
        yield ""
        for code in (code for code in CODES.values() if code.code.startswith(head)):
            yield f"### {code.code} {code.title}"
            yield ""
            yield f"*{code.severity.name.capitalize()}*, exit {int(code.exit)}. {_sentence(code.meaning)}"
            yield ""
            yield f"- **Cause.** {_sentence(code.cause)}"
            yield f"- **Evidence.** {_sentence(code.evidence)}"
            yield f"- **Cure.** {_sentence(code.cure)}"
            yield ""


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


if __name__ == "__main__":
    PATH.write_text(text())
