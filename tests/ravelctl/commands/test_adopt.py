"""`ravelctl admin adopt`: what is told before, what must be typed, and what is told afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ravelpb.errors import Reason
from ravelpb.v1.common_pb2 import ServerRef
from tests.ravelctl.conftest import Ctl, Ran
from tests.ravelctl.fake_admin import FakeAdmin, FakeDirectory, fake_admin

OLD = "00000001" + "c" * 24
THERE = "10.0.9.1:7400"


@pytest.fixture
def directory() -> FakeDirectory:
    made = FakeDirectory()
    orders = made.cluster("orders", range(4096))
    made.server(orders, "n1")
    made.server(orders, "n2")
    made.adopted = {"members": [ServerRef(server_id="e" * 32, name="x1")]}
    return made


@pytest.fixture
def admin(directory: FakeDirectory) -> Iterator[FakeAdmin]:
    made = fake_admin(directory)
    yield made
    made.stop()


def adopt(ctl: Ctl, admin: FakeAdmin, *words: str) -> Ran:
    return ctl("admin", "adopt", "orders", THERE, *words, "-e", admin.address)


def test_it_is_told_typed_and_done(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.adopted |= {"moves_called_off": 2}
    ran = adopt(ctl, admin, "--yes", "--confirm", OLD[:8])
    assert ran.code == 0, ran.err
    assert "orders is eeeeeeee now" in ran.out
    for words in (
        "00000001 is superseded by eeeeeeee",
        "again: x1; revision 1,000,000,007",
        "2 servers n1, n2 go from the list",
        "2 moves",
        "`ravelctl admin reconcile --dry-run`",
    ):
        assert words in ran.err, words
    (asked,) = directory.asked
    assert (asked.cluster, list(asked.addresses), asked.cluster_id) == ("orders", [THERE], "e" * 32)


def test_a_dry_run_changes_nothing(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    ran = adopt(ctl, admin, "--dry-run", "-o", "json")
    assert (ran.code, directory.asked) == (0, [])
    assert '"changed": false' in ran.out


@pytest.mark.parametrize(
    ("words", "code"), [((), 2), (("--yes",), 2), (("--confirm", OLD), 2), (("--yes", "--confirm", "e" * 8), 5)]
)
def test_the_old_id_must_be_typed(
    ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory, words: tuple[str, ...], code: int
) -> None:
    ran = adopt(ctl, admin, *words)
    assert (ran.code, directory.asked) == (code, [])
    assert OLD in ran.err


def test_what_has_its_place_is_left_alone(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.clusters[0].cluster_id = "e" * 32
    ran = adopt(ctl, admin)
    assert (ran.code, directory.asked) == (0, [])
    assert "orders is eeeeeeee already" in ran.out


def test_servers_that_do_not_register_are_told(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.adopted = {}
    ran = adopt(ctl, admin, "--yes", "--confirm", OLD, "--timeout", "3s")
    assert ran.code == 0
    assert "start them with --admin" in ran.err


def test_refusals(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.refusal = (Reason.UNSAFE_CHANGE, "10.0.1.1:7400 still answers", {})
    assert adopt(ctl, admin, "--yes", "--confirm", OLD).code == 5
    directory.refusal = None
    ran = ctl("admin", "adopt", "users", THERE, "-e", admin.address)
    assert (ran.code, "there are orders" in ran.err) == (1, True)
    assert ctl("admin", "adopt", "orders", "not an address", "-e", admin.address).code == 2
    assert directory.asked == []
