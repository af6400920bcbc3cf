"""The ring of events, and what a cluster writes into it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ravel_node.raft import MessageType
from ravel_node.replica.events import EVENTS_KEPT, FIELD_CHARS_MAX, TEXT_CHARS_MAX, EventKind, EventLog, Position
from tests.replica.cluster import ANY, Node, cluster_of, until
from tests.replica.virtual import virtual


def log_of(count: int, boot_id: str = "a") -> EventLog:
    events = EventLog(boot_id, lambda: 5.0)
    for number in range(count):
        events.record(EventKind.ACTION, f"e{number}", "it happened")
    return events


def names(node: Node, kind: EventKind | None = None) -> list[str]:
    return [event.name for event in node.events.since(0) if kind in (None, event.kind)]


def texts(node: Node, name: str) -> list[str]:
    return [event.text for event in node.events.since(0) if event.name == name]


class TestRing:
    def test_positions(self) -> None:
        events = log_of(5)
        assert [event.sequence for event in events.since(3)] == [4, 5]
        assert [event.sequence for event in events.since(0, limit=2)] == [1, 2]
        assert list(events.since(5)) == list(events.since(9)) == []
        assert events.sequence_of(Position("a", 3)) == 3
        assert events.sequence_of(Position("z", 3)) == events.sequence_of(Position("a", 6)) == 0

    def test_only_the_newest_are_kept(self) -> None:
        events = log_of(EVENTS_KEPT + 7)
        assert [events.since(0)[0].sequence, events.since(0)[-1].sequence, len(events.since(0))] == [8, 1_007, EVENTS_KEPT]
        assert events.sequence_of(Position("a", 7)) == 0, "what came after it is not all there"
        assert events.sequence_of(Position("a", 8)) == 8

    def test_sequences_go_on_after_a_restart(self) -> None:
        events = EventLog("b", lambda: 6.0, kept=log_of(3).since(0))
        events.record(EventKind.SERVER, "server-started", "again")
        assert [event.position for event in events.since(2)] == [("a", 3), ("b", 4)]
        assert events.sequence_of(Position("b", 3)) == 0
        assert events.sequence_of(Position("a", 3)) == 3

    def test_events_before_a_gap_are_let_go(self) -> None:
        kept = [event for event in log_of(6).since(0) if event.sequence != 3]
        assert [event.sequence for event in EventLog("b", lambda: 6.0, kept=kept).since(0)] == [4, 5, 6]

    def test_an_event_is_bounded(self) -> None:
        events = log_of(0)
        events.record(EventKind.ALARM, "long", "x" * 10_000, {f"k{n}": "y" * 10_000 for n in range(100)})
        (event,) = events.since(0)
        assert len(event.text) == TEXT_CHARS_MAX
        assert sum(map(len, event.fields.values())) <= 12 * FIELD_CHARS_MAX

    async def test_news(self) -> None:
        events = log_of(1)
        await events.news(0)
        await events.news(1, timeout_s=0.01)
        waiting = [asyncio.create_task(events.news(1)) for _ in range(3)]
        await asyncio.sleep(0)
        events.record(EventKind.ACTION, "next", "it happened")
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)


class TestElections:
    @virtual
    async def test_a_leader_dies_and_another_is_elected(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            old = await cluster.leader()
            assert "election-won" in names(old, EventKind.ELECTION)
            term = old.replica.term
            await old.crash()
            new = await cluster.leader(old)
            story = [event for event in new.events.since(0) if event.term > term or event.name == "leader-lost"]
            assert [event.name for event in story] == [
                "poll-begun",
                "leader-lost",
                "campaign-begun",
                "election-won",
                "leader-known",
            ]
            won = story[3]
            assert won.text.startswith(f"won term {new.replica.term}, votes n")
            assert "(pre-vote " in won.text
            assert won.fields["granted_by"].split(",") == sorted(str(node.id) for node in cluster.alive)
            assert (story[1].fields["leader_id"], story[4].fields["leader_id"]) == (str(old.id), str(new.id))
            (other,) = [node for node in cluster.alive if node is not new]
            await until("the other knows", lambda: names(other)[-1] == "leader-known")
            assert texts(other, "leader-known")[-1] == f"n{new.id} leads in term {new.replica.term}"
            assert {event.replica_id for event in new.events.since(0)} == {new.id}

    @virtual
    async def test_who_is_cut_off_does_not_fill_the_ring(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            await cluster.leader()
            lonely = (await cluster.followers())[0]
            cluster.isolate(lonely)
            await until("it looks for a leader", lambda: "leader-lost" in names(lonely))
            told = len(names(lonely))
            await asyncio.sleep(30)
            assert len(names(lonely)) - told <= 2
            status = lonely.replica.status()
            assert (status.leader_id, status.votes) == (0, {lonely.id: True})

    @virtual
    async def test_elections_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ravel_node.replica.past_hour.WINDOW_S", 5.0)
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            (other, _) = await cluster.followers()
            before, changes = other.replica.status().elections_1h, other.replica.status().leader_changes_1h
            await leader.replica.transfer_leader(other.id, dry_run=False, expect=ANY)
            await until("it leads", lambda: other.replica.is_leader)
            assert other.replica.status().elections_1h == before + 1
            assert other.replica.status().leader_changes_1h == changes + 1
            assert other.replica.status().counters.elections == before + 1
            await asyncio.sleep(6)
            assert (other.replica.status().elections_1h, other.replica.status().leader_changes_1h) == (0, 0)
            assert other.replica.status().counters.elections == before + 1


class TestTransfers:
    @virtual
    async def test_leadership_goes_where_it_was_sent(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            heir = (await cluster.followers())[0]
            await leader.replica.transfer_leader(heir.id, dry_run=False, expect=ANY)
            await until("it is done", lambda: "transfer-done" in names(leader))
            assert names(leader, EventKind.ACTION) == ["transfer-begun", "transfer-done"]
            assert texts(leader, "transfer-done") == [f"leadership went to n{heir.id}"]
            assert any("asked to by the leader" in text for text in texts(heir, "campaign-begun"))

    @virtual
    async def test_leadership_that_could_not_go(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            heir = (await cluster.followers())[0]
            heir.held = lambda message: message.type is MessageType.TIMEOUT_NOW
            task = asyncio.create_task(leader.replica.transfer_leader(heir.id, dry_run=False, expect=ANY))
            await until("it has failed", lambda: "transfer-failed" in names(leader))
            assert names(leader, EventKind.ACTION) == ["transfer-begun", "transfer-failed"]
            await asyncio.gather(task, return_exceptions=True)


class TestMeasures:
    @virtual
    async def test_a_follower_that_falls_behind(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            lonely = (await cluster.followers())[0]
            await cluster.converged()
            cluster.isolate(lonely)
            await leader.put(b"k", b"v" * 1_000)
            await asyncio.sleep(5)
            progress = {view.replica_id: view for view in leader.replica.status().progress}
            late = progress.pop(lonely.id)
            assert late.lag.entries == leader.replica._raw.last_index - late.match > 0
            assert late.lag.bytes > 1_000
            assert not late.lag.seconds_is_least
            assert 4.9 < late.lag.seconds < 5.2
            assert late.contact_age_s is not None
            assert late.contact_age_s > 4.9
            (near,) = progress.values()
            assert (near.lag.entries, near.lag.seconds) == (0, 0.0)
            await until("alarms are raised", lambda: alarms(leader) == {("RV201", lonely.id), ("RV202", lonely.id)})
            cluster.network.heal()
            await cluster.converged()
            await until("they are cleared", lambda: not alarms(leader), within_s=60)
            told = [(event.name, event.fields["code"]) for event in leader.events.since(0) if event.kind is EventKind.ALARM]
            assert sorted(told) == sorted(
                [(name, code) for name in ("alarm-raised", "alarm-cleared") for code in ("RV201", "RV202")]
            )

    @virtual
    async def test_what_is_counted_and_timed(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            before = leader.replica.status().counters
            for number in range(20):
                await leader.put(b"%d" % number, b"v" * 100)
            status = leader.replica.status()
            assert status.counters.writes - before.writes == 20
            assert status.counters.log_bytes - before.log_bytes > 2_000
            assert status.counters.monotonic_s >= before.monotonic_s
            assert status.commit.count >= 20
            assert status.fsync.count > 0
            assert status.apply.count > 0
            assert all(view.ack.count > 0 for view in status.progress)
            follower = (await cluster.followers())[0].replica.status()
            assert (follower.commit.count, follower.counters.writes) == (0, 0)
            await asyncio.sleep(20)
            assert leader.replica.status().commit.count == 0


def alarms(node: Node) -> set[tuple[str, int]]:
    return {(alarm.code, alarm.replica_id) for alarm in node.replica.status().alarms}


class TestMembers:
    @virtual
    async def test_a_newcomer_is_told_from_its_arrival_to_its_end(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            node = await cluster.join(4)
            await until("it votes", lambda: node.id in leader.replica.conf_state.voters)
            await cluster.converged()
            await leader.replica.remove([node.id], dry_run=False, expect=ANY)
            await until("it is gone", lambda: "member-removed" in names(leader))
            told = [event for event in leader.events.since(0) if event.kind is EventKind.MEMBERSHIP]
            assert [event.name for event in told] == ["members-known", "member-added", "member-promoted", "member-removed"]
            assert told[0].text == "the members are n1 n2 n3, index 1"
            assert told[1].text == f"learner n4 was added at peer-4, index {told[1].index}"
            assert told[1].fields["member_id"] == str(node.id)
            assert 1 < told[1].index < told[2].index < told[3].index
            snapshots = [event.name for event in leader.events.since(0) if event.kind is EventKind.SNAPSHOTS]
            assert snapshots == ["snapshot-sending", "snapshot-sent"]
            received = [event.name for event in node.events.since(0) if event.kind is EventKind.SNAPSHOTS]
            assert received == ["snapshot-receiving", "snapshot-installed"]
