"""What holds for all tests: no variable of the machine reaches them, and no clock judges how fast they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import leftovers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job that a shell started in the background ignores Ctrl-C, and so would all its children, whom some tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would fail on a machine that is busy. Examples are the same in every run, so that a change is judged by what it
# changed; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("ravel", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ravel"))

# Where bytecode is forbidden every process that a test starts would compile its modules again: half of what a start costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

E2E = Path(__file__).parent / "e2e"
FAULTS = Path(__file__).parent / "faults"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
        if FAULTS in item.path.parents and "trial" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.faults)
        if (item.get_closest_marker("e2e") or item.get_closest_marker("faults")) and not item.get_closest_marker("timeout"):
            # Daemons that start, and several rounds of it, on a machine that may be busy.
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_behind(_no_settings_of_the_machine: None) -> Iterator[None]:
    """Also when this process is killed: see leftovers.py."""
    mark = os.urandom(8).hex()
    command = [sys.executable, "-S", leftovers.__file__, mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True), pytest.MonkeyPatch.context() as patch:
        patch.setenv(leftovers.NAME, mark)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Variables and files that daemons and commands read would change what the tests see, also in the processes they start."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("RAVEL_", "RAVELCTL_")) or name in ("NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name)
        for kind in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
        yield
