"""`ravelctl admin reconcile`: what is shown, asked, repeated, and refused without consent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ravelctl.admin.reconciling import read_slots
from ravelctl.cli.errors import CommandError
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2 as pb
from tests.ravelctl.conftest import Ctl, Ran
from tests.ravelctl.fake_admin import FakeAdmin, FakeDirectory, fake_admin

CHANGE = pb.OwnershipChange(number=1, name="orders", lost=range(100, 200), lost_with_keys=[100, 150], moves_ended=[7])
LOSS = pb.SlotsLoss(slots=range(20, 30), number=1, name="orders", reason="no cluster that answers owns them: they open empty")
AWAY = pb.AwayCluster(number=2, name="users", reason="nobody answers")


@pytest.fixture
def directory() -> FakeDirectory:
    made = FakeDirectory()
    made.server(made.cluster("orders", range(4000)), "n1")
    made.server(made.cluster("users", range(4000, 4096)), "u1")
    return made


@pytest.fixture
def admin(directory: FakeDirectory) -> Iterator[FakeAdmin]:
    made = fake_admin(directory)
    yield made
    made.stop()


def reconcile(ctl: Ctl, admin: FakeAdmin, *words: str) -> Ran:
    return ctl("admin", "reconcile", *words, "-e", admin.address)


def test_nothing_to_do(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    for words in ((), ("--dry-run",)):
        ran = reconcile(ctl, admin, *words)
        assert (ran.code, ran.out.strip()) == (0, "registry and clusters agree")
    assert directory.asked == []


def test_it_is_shown_confirmed_and_repeated_until_it_is_done(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.in_doubt = pb.ReconcileResponse(plan="abc", changes=[CHANGE], moves_struck=[7], slots_decided=3, map_version=4)
    unsure = reconcile(ctl, admin)
    assert (unsure.code, directory.asked) == (2, []), "there is no terminal to ask on"
    directory.reconciled = [
        pb.ReconcileResponse(plan="other", obstacle="cluster orders: it does not answer"),
        pb.ReconcileResponse(plan="other", keys_deleted=40, map_version=6),
        pb.ReconcileResponse(done=True, keys_deleted=2, map_version=6),
    ]
    ran = reconcile(ctl, admin, "--yes", "-o", "json")
    assert ran.code == 0, ran.err
    said = ran.json
    assert {name: said[name] for name in ("done", "changed", "keys_deleted", "map_version", "slots_decided", "moves_struck")} == {
        "done": True,
        "changed": True,
        "keys_deleted": "42",
        "map_version": "6",
        "slots_decided": 3,
        "moves_struck": ["7"],
    }
    assert said["changes"] == [
        {
            "cluster": "orders",
            "gained": "",
            "lost": "100-199",
            "lost_with_keys": "100,150",
            "moves_ended": ["7"],
            "moves_to_purge": [],
        }
    ]
    for words in (
        "gives another owner to 3 slots",
        "cannot go on: 1 move",
        "cluster orders: loses 100 slots (100-199), and deletes what it has in 2 of them; ends 1 move",
    ):
        assert words in ran.err, words
    assert [request.plan for request in directory.asked] == ["abc", "", ""], "the plan that was shown, then whatever is left"


def test_what_may_be_lost_is_refused_and_the_command_to_accept_it_told(
    ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory
) -> None:
    directory.in_doubt = pb.ReconcileResponse(done=True, losses=[LOSS])
    for words in ((), ("--dry-run",)):
        ran = reconcile(ctl, admin, *words)
        assert ran.code == 5
        assert "cluster orders would open 10 slots (20-29) only with consent: no cluster that answers owns them" in ran.err
        assert "ravelctl admin reconcile --accept-loss 20-29" in ran.err
    accepted = pb.ReconcileResponse(plan="abc", slots_decided=10, changes=[pb.OwnershipChange(number=1, name="orders")])
    accepted.losses.add(slots=LOSS.slots, number=1, name="orders", reason=LOSS.reason, accepted=True)
    directory.in_doubt = accepted
    directory.reconciled = [pb.ReconcileResponse(done=True)]
    ran = reconcile(ctl, admin, "--accept-loss", "20-29", "--yes")
    assert ran.code == 0, ran.err
    assert "cluster orders opens 10 slots (20-29), as accepted" in ran.err
    assert list(directory.asked[0].accept_loss) == list(range(20, 30))


def test_what_was_done_is_told_though_some_slots_need_consent(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.in_doubt = pb.ReconcileResponse(plan="abc", changes=[CHANGE], losses=[LOSS])
    directory.reconciled = [pb.ReconcileResponse(done=True, losses=[LOSS], map_version=9)]
    ran = reconcile(ctl, admin, "--yes")
    assert (ran.code, "what needs no consent is done, by map version 9; cluster orders would open 10 slots" in ran.err) == (
        1,
        True,
    ), ran.err
    before = ran.err.index("loses 100 slots"), ran.err.index("only with consent")
    assert max(before) < ran.err.index("what needs no consent is done"), "all of it is shown before anything is asked"


def test_a_cluster_that_is_away_keeps_its_slots_and_the_way_on_is_told(
    ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory
) -> None:
    directory.in_doubt = pb.ReconcileResponse(done=True, away=[AWAY])
    ran = reconcile(ctl, admin)
    assert ran.code == 0
    said = ran.out + ran.err
    assert "cluster users does not tell what it owns (nobody answers): its 96 slots stay as they are" in said
    assert "--accept-loss 4000-4095" in said


def test_a_plan_that_changed_is_refused(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.in_doubt = pb.ReconcileResponse(plan="abc", changes=[CHANGE])
    directory.reconciled = [pb.ReconcileResponse(done=True)]
    directory.refusal = (Reason.STALE_VIEW, "what registry and clusters say has changed", {})
    assert reconcile(ctl, admin, "--yes").code == 5


def test_what_does_not_get_on_is_given_up_in_time(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.in_doubt = pb.ReconcileResponse(plan="abc", changes=[CHANGE])
    directory.reconciled = [pb.ReconcileResponse(plan="abc", obstacle="cluster orders: it does not answer")]
    ran = reconcile(ctl, admin, "--yes", "--timeout", "1s")
    assert (ran.code, "it does not answer" in ran.err, "repeat" in ran.err) == (124, True, True), ran.err


@pytest.mark.parametrize(
    ("text", "slots"),
    [("7", [7]), ("3,1-2", [1, 2, 3]), ("0-4095", list(range(4096))), ("all", list(range(4096)))],
)
def test_slots_are_read(text: str, slots: list[int]) -> None:
    assert read_slots(text) == slots


@pytest.mark.parametrize("text", ["", "x", "4096", "5-3", "1-", "-1", "1,,2", "1 2"])
def test_what_names_no_slots_is_told(text: str) -> None:
    with pytest.raises(CommandError, match="names no slots"):
        read_slots(text)
