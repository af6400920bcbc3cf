"""The door to data directories: what commands get, and how each refusal ends them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.offline import directory
from tests.storage.test_damage import LOG_MARK, flip, prepared


async def test_a_look_the_log_and_a_check(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    facts = directory.look(path)
    assert (facts.log.first_index, facts.log.last_index, facts.problems) == (2, 7, ())
    assert [record.index for page in directory.log_pages(path) for record in page.records] == [2, 3, 4, 5, 6, 7]
    assert [record.index for page in directory.log_pages(path, 4, 6) for record in page.records] == [4, 5]
    assert [page.records for page in directory.log_pages(path, 100)] == [[]]
    assert {step.part for step in directory.check(path)} == {"log", "positions", "state", "snapshots"}
    assert {step.part for step in directory.check(path, log_only=True)} == {"log"}
    flip(path / "raft" / "data.mdb", LOG_MARK)
    (problem,) = [problem for step in directory.check(path, log_only=True) for problem in step.problems]
    assert problem.startswith("raft/data.mdb: entry 6 is damaged")


async def test_each_refusal_has_its_exit_code(tmp_path: Path) -> None:
    def code(path: Path) -> ExitCode:
        with pytest.raises(CommandError) as caught:
            directory.look(path)
        return caught.value.code

    path = await prepared(tmp_path / "d")
    assert code(tmp_path / "none") is ExitCode.USAGE
    assert code(path / "FORMAT") is ExitCode.USAGE
    assert code(path / "raft") is ExitCode.USAGE
    (path / "FORMAT").write_text("ravel 9\n")
    assert code(path) is ExitCode.REFUSED
    (path / "FORMAT").write_text("something\n")
    assert code(path) is ExitCode.USAGE
    (path / "FORMAT").write_text("ravel 2\n")
    (path / "raft" / "data.mdb").write_bytes(b"no environment" * 1000)
    assert code(path) is ExitCode.DAMAGED
    if os.geteuid():
        path.chmod(0)
        assert code(path) is ExitCode.NOT_ALLOWED
        path.chmod(0o700)
