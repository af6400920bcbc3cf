"""Running commands: in this process, against pretended daemons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ravelctl.cli.root import main
from tests.ravelctl import documents
from tests.ravelctl.fake import FakeCluster


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document that was printed, which has the form of its kind."""
        found = json.loads(self.out)
        if isinstance(found, dict) and "kind" in found:
            documents.check(found)
        return found

    @property
    def error(self) -> Any:
        return json.loads(self.err)


Ctl = Callable[..., Ran]


@pytest.fixture
def ctl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Run a command line; words are given one by one, numbers as they are."""
    for name in ("RAVELCTL_ENDPOINTS", "RAVELCTL_OUTPUT", "RAVELCTL_TIMEOUT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: object) -> Ran:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Without daemons at first."""
    made = FakeCluster()
    yield made
    made.stop()
