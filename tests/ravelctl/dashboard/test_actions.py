"""What hands do: the cursor, pausing, dialogs, and what is sent to the cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.widgets import Input

from ravelctl.client import ClusterClient, InspectClient
from ravelctl.dashboard.recording import Recording
from ravelctl.dashboard.screens.confirm import ConfirmScreen
from ravelctl.dashboard.session import Target
from ravelctl.dashboard.widgets.replica_table import RowTable
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1 import inspect_pb2 as ins
from tests.ravelctl.dashboard import scripted
from tests.ravelctl.dashboard.conftest import Desk, Open, target_for
from tests.ravelctl.dashboard.scripted import Scripted


def key_of(number: int) -> str:
    return f"{number:032x}"


def table(desk: Desk) -> RowTable:
    return desk.app.screen.query_one(RowTable)


async def choose(desk: Desk, number: int) -> None:
    table(desk).cursor = key_of(number)
    await desk.pilot.pause()


async def dialog(desk: Desk, text: str) -> ConfirmScreen:
    """The dialog, once it says this."""
    await desk.until(
        lambda: isinstance(desk.app.screen, ConfirmScreen) and text in desk.app.screen.text, f"a dialog with {text!r}"
    )
    screen = desk.app.screen
    assert isinstance(screen, ConfirmScreen)
    return screen


async def test_the_cursor_stays_on_its_replica(desk: Open) -> None:
    """Through sort, a change of leader, a replica that goes down and one that leaves."""
    cluster = Scripted(5)
    async with desk(cluster, endpoints=(1,)) as found:
        await choose(found, 4)
        for _ in range(6):
            await found.press("s")
            assert table(found).cursor == key_of(4)
        cluster.lead(4, term=43)
        await found.passes()
        assert table(found).cursor == key_of(4)
        assert table(found).keys_shown[0] == key_of(4)
        await cluster.replicas[2].stop()
        await found.passes()
        assert table(found).cursor == key_of(4)
        del cluster.roles[3]
        cluster.config_index += 1
        await found.passes()
        await found.until(lambda: len(table(found).keys_shown) == 4 or found.app.tick())
        assert table(found).cursor == key_of(4)


async def test_when_the_chosen_replica_leaves_the_cursor_goes_to_its_neighbour(desk: Open) -> None:
    cluster = Scripted(4)
    async with desk(cluster, endpoints=(1,)) as found:
        await choose(found, 3)
        del cluster.roles[3]
        cluster.config_index += 1
        await found.passes()
        await found.until(lambda: key_of(3) not in table(found).keys_shown or found.app.tick())
        assert table(found).cursor == key_of(4)


async def test_remove_sends_the_id_that_was_shown(desk: Open) -> None:
    """Also when the table is sorted anew, and another leads, while the dialog is open."""
    cluster = Scripted(5)
    async with desk(cluster) as found:
        await choose(found, 4)
        await found.press("D")
        shown = await dialog(found, "An id is never used twice")
        assert "Remove n4 (4) from cluster prod-eu" in shown.text
        assert "TOLERATES" in shown.text
        await cluster.replicas[5].stop()
        await found.passes()
        await found.press(*"5", "enter")
        assert "type 4" in shown.text
        shown.query_one(Input).value = ""
        await found.press(*"4", "enter")
        await dialog(found, "removed n4 (4)")
        (request,) = cluster.asked
        assert list(request.replica_ids) == [4]
        assert (request.expect.term, request.expect.config_index) == (42, 40)
        await found.press("escape")
        await found.passes()
        assert found.lines("removed n4 (4)")


async def test_an_action_from_a_stale_screen_is_refused(desk: Open) -> None:
    cluster = Scripted(5)
    async with desk(cluster) as found:
        await choose(found, 4)
        await found.press("p")
        cluster.lead(2, term=43)
        await found.heard()
        await found.press("T")
        await dialog(found, "the cluster has moved on since this was shown (term 43")
        await found.press("enter")
        assert cluster.asked == []


async def test_a_cluster_that_moves_on_while_the_dialog_is_open_refuses(desk: Open) -> None:
    cluster = Scripted(5)
    async with desk(cluster) as found:
        await choose(found, 4)
        await found.press("T")
        await dialog(found, "enter-yes")
        cluster.lead(2, term=43)
        await found.press("enter")
        await dialog(found, "the term is 43, not 42")
        assert cluster.asked == []


async def test_transfer_promote_and_snapshot(desk: Open) -> None:
    cluster = Scripted(4)
    cluster.roles[4] = pb.LEARNER
    async with desk(cluster) as found:
        await choose(found, 4)
        await found.press("P")
        await dialog(found, "enter-yes")
        await found.press("enter")
        await dialog(found, "promoted n4 (4)")
        await found.press("escape")
        await found.passes()
        await choose(found, 3)
        await found.press("S")
        await dialog(found, "enter-yes")
        await found.press("enter")
        await dialog(found, "n3 has a snapshot of index 918,442,107")
        await found.press("escape")
        await choose(found, 2)
        await found.press("T")
        await dialog(found, "seen in term 42")
        await dialog(found, "enter-yes")
        await found.press("enter")
        await dialog(found, "leadership went from n1 to n2")
        promoted, saved, transferred = cluster.asked
        assert list(promoted.replica_ids) == [4]
        assert isinstance(saved, ins.SaveSnapshotRequest)
        assert saved.expect == transferred.expect
        assert transferred.replica_id == 2


async def test_a_refusal_tells_why_and_changes_nothing(desk: Open) -> None:
    cluster = Scripted(3)
    cluster.unsafe = "2 of 3 voters would be left, and one of them is not caught up"
    async with desk(cluster) as found:
        await choose(found, 3)
        await found.press("D")
        await dialog(found, "the leader refuses: 2 of 3 voters")
        await found.press("3", "enter")
        assert cluster.asked == []


@pytest.mark.parametrize("key", ["T", "P", "D", "S"])
async def test_read_only_switches_every_change_off(desk: Open, key: str) -> None:
    cluster = Scripted(3)
    async with desk(cluster, read_only=True) as found:
        await choose(found, 2)
        await found.press(key)
        assert not isinstance(found.app.screen, ConfirmScreen)
        assert found.lines("READ-ONLY")
        names = [command.help for command in found.app.get_system_commands(found.app.screen)]
        assert not [text for text in names if "leadership" in text or "cluster for good" in text]


async def test_pause_holds_the_picture_while_frames_come_in(desk: Open) -> None:
    cluster = Scripted(3)
    async with desk(cluster) as found:
        live = found.app.live
        assert live is not None
        await found.press("p")
        before, frames = found.text(), live.observer.frames
        cluster.lead(3, term=99)
        cluster.peer(2).lag(5_000, ms=9_000)
        await found.passes(5.0)
        assert live.observer.frames > frames
        assert found.text() == before
        assert found.lines("PAUSED")
        await found.press("p")
        assert found.lines("n3@99")


async def test_a_server_that_was_killed_is_down_and_then_live(desk: Open) -> None:
    cluster = Scripted(3)
    async with desk(cluster) as found:
        await cluster.replicas[3].stop()
        cluster.peer(3).contact(900, active=False)
        await found.passes()
        assert found.lines("(down)")
        assert found.lines("DOWN-")
        cluster.replicas[3].boot += 1
        await cluster.replicas[3].start()
        await found.passes()
        assert not found.lines("(down)")


async def test_acknowledged_alarms_step_back(desk: Open) -> None:
    cluster = Scripted(7)
    for replica in cluster.replicas.values():
        replica.fsync_us = 30_000
    async with desk(cluster, size=(80, 24)) as found:
        await found.passes()
        (first,) = found.lines("press a")
        assert first.startswith(" CRIT n1 fsync")
        await found.press("a")
        (second,) = found.lines("CRIT n7 fsync ·")
        assert not second.startswith(" CRIT n1")
        acknowledged = [alarm for alarm in found.app.source.picture.alarms if alarm.acknowledged]
        assert 0 < len(acknowledged) < 7


async def test_record_key_writes_a_file_that_can_be_played(desk: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = Scripted(3)
    async with desk(cluster) as found:
        await found.press("R")
        await found.passes()
        assert found.lines("REC ")
        await found.passes()
        await found.press("R")
        assert not found.lines("REC ")
    assert Recording(tmp_path / "prod-eu-20260302T140327Z.rvtop").damage == ""


async def test_two_leaders_in_one_term_raise_an_alarm_and_record(
    desk: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = Scripted(5)
    async with desk(cluster) as found:
        cluster.replicas[3].role = pb.LEADER
        await found.passes()
        assert found.lines("SAFETY two leaders in term 42: n1 and n3")
        assert found.app.live is not None
        assert found.app.live.recorder is not None


async def test_many_clusters(desk: Open) -> None:
    one, other = Scripted(3, name="prod-eu"), Scripted(3, name="stage")
    scripted.no_leader(other)
    await one.start()
    await other.start()
    nowhere = Target(("127.0.0.1:1",), lambda endpoints: ClusterClient(tuple(endpoints)), lambda: InspectClient())
    try:
        clusters = {"prod-eu": target_for(one), "stage": target_for(other), "dev": nowhere}
        async with desk(one, clusters=clusters) as found:
            await found.press("m")
            await found.until(lambda: found.lines("!stage"))
            await found.until(lambda: found.lines("xdev"))
            assert found.lines("NO-LEADER")
            assert found.lines("UNREACH")
            assert table(found).keys_shown[0] == "stage"
            assert found.lines("3 clusters")
            await found.press("home", "enter")
            await found.until(lambda: found.app.tick() or found.lines("NO LEADER for 14s"))
    finally:
        await other.stop()


async def test_a_folder_that_cannot_be_written_is_told_and_nothing_ends(
    desk: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with desk(Scripted(3)) as found:
        os.rmdir(tmp_path)
        await found.press("R")
        await found.until(lambda: found.lines("cannot write"))
        await found.passes()
        assert found.lines("LEADER")
