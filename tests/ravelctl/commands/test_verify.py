"""`ravelctl verify` without daemons: what it refuses, what it would do, and how a verdict is told."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import Table
from ravelctl.commands.verify import _view
from ravelctl.linearizability.checker import check
from ravelctl.linearizability.history import Kind, Operation, Outcome
from ravelctl.load.verify import Figures, Plan, Replica
from tests.ravelctl.conftest import Ctl


def test_a_dry_run_dials_nobody(ctl: Ctl) -> None:
    done = ctl("verify", "--dry-run", "--seconds", "3s", "-o", "json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["dry_run"]
    assert told["prefix"].startswith(".ravelctl-verify/")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--seconds", "1h"), "--seconds 3600 is more than 600"),
        (("--clients", "9", "--keys", "2"), "9 clients on 2 keys are too many to judge"),
        (("--keys", "0"), "'0' is not a whole number from 1 to"),
    ],
)
def test_what_cannot_be_judged_is_refused(ctl: Ctl, words: tuple[str, ...], sentence: str) -> None:
    done = ctl("verify", *words)
    assert done.code == ExitCode.USAGE
    assert sentence in done.err


def test_nobody_there(ctl: Ctl) -> None:
    assert ctl("verify", "-e", "127.0.0.1:1", "--timeout", "3s").code == ExitCode.UNREACHABLE


def test_a_violation_is_told_in_words_with_exit_code_8() -> None:
    history = [
        Operation("1 at n1", Kind.PUT, b"k", 0.0, 1.0, value=b"a", revision=1),
        Operation("1 at n1", Kind.PUT, b"k", 2.0, 3.0, value=b"b", revision=2),
        Operation("2 at n2", Kind.GET, b"k", 4.0, 5.0, answer=b"a", revision=1),
    ]
    figures = Figures(
        plan=Plan(1.0, 2, 1, b".ravelctl-verify/0/"),
        replicas=[Replica("n1", "a:1"), Replica("n2", "b:1")],
        elapsed_s=1.0,
        operations=Counter((one.kind.value, one.outcome) for one in history),
        answered=Counter(n1=1),
        stale=4,
        report=check(history),
        broken=["n2 showed something that nobody wrote"] * 5,
    )
    view = _view(figures)
    assert view.code == ExitCode.DAMAGED
    assert view.names == ("not-linearizable",)
    assert isinstance(view.body, Table)
    text = "\n".join(view.body.below)
    assert "client 2 at n2, 4.000000 to 5.000000 s: get -> b'a' at revision 1" in text
    assert text.count("nobody wrote") == 3
    assert "and 2 more stale reads that broke their promises" in text
    assert view.body.rows == (("get", "1", "0", "0"), ("put", "2", "0", "0"), ("stale get", "4", "0", "0"))
    assert view.data["operations"]["put"] == {Outcome.DONE.value: 2}
