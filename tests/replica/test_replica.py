"""Clusters of one to five real replicas: what clients, operators and crashes do to them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravel_node.machine import envelope, kv
from ravel_node.machine.base import Status
from ravel_node.raft import Index, Message, MessageType, ReplicaId, Term
from ravel_node.replica.errors import (
    ChangeInProgressError,
    LeadershipLostError,
    MembershipError,
    MoveRefusedError,
    NameTakenError,
    NotCaughtUpError,
    NotLeaderError,
    OutcomeUnknownError,
    QuotaExceededError,
    RemovedError,
    ReplicaError,
    ReplicaStoppedError,
    StaleViewError,
    TransferFailedError,
    UnreachableMemberError,
    UnsafeChangeError,
)
from ravel_node.replica.reads import ReadMode, vote_promise_us
from ravel_node.replica.status import Expectation
from ravel_node.replica.verdict import Plan
from ravel_node.storage.keys import slot_key
from ravel_node.storage.store import DiskStore
from ravel_node.transport.base import ProbeAnswer
from ravel_node.transport.memory import Faults
from ravelpb.slots import slot_of
from tests.replica.cluster import ANY, OPTIONS, Cluster, Node, cluster_of, outcome_of, patch, record, until
from tests.replica.virtual import virtual

ELECTION_S = OPTIONS.election_timeout_s
LINEARIZABLE = ReadMode.LINEARIZABLE


def failed(answers: Sequence[object]) -> list[ReplicaError]:
    return [answer for answer in answers if isinstance(answer, ReplicaError)]


class TestWrites:
    @pytest.mark.parametrize("voters", [1, 2, 3, 5])
    @virtual
    async def test_every_kind_of_command(self, tmp_path: Path, voters: int) -> None:
        async with cluster_of(tmp_path, voters) as cluster:
            leader = await cluster.leader()
            first, second, swapped, missed, taken, gone = await leader.write(
                envelope.put(b"a", b"1"),
                envelope.put(b"b", b"2"),
                envelope.compare_and_swap(b"a", 1, b"3"),
                envelope.compare_and_swap(b"a", 1, b"4"),
                envelope.get_and_delete(b"b"),
                envelope.delete(b"b"),
            )
            assert (first.revision, second.revision, swapped.revision) == (1, 2, 3)
            assert (missed.status, missed.revision, missed.value) == (Status.CONDITION_FAILED, 3, b"3")
            assert (taken.value, taken.revision, gone.found) == (b"2", 2, False)
            assert await leader.get(b"a") == b"3"
            await cluster.converged()

    @virtual
    async def test_many_at_once_each_get_their_own_answer(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()

            async def client(number: int) -> None:
                for turn in range(5):
                    mine = b"%d/%d" % (number, turn)
                    count = 1 + (number + turn) % 4
                    puts = [envelope.put(mine + b"/%d" % part, mine) for part in range(count)]
                    outcomes = await leader.write(*puts, envelope.get_and_delete(mine + b"/0"))
                    assert len(outcomes) == count + 1
                    assert outcomes[-1].value == mine
                    assert outcomes[-1].revision == outcomes[0].revision

            await asyncio.gather(*(client(number) for number in range(100)))
            await cluster.converged()

    @virtual
    async def test_a_counter_under_contention_loses_nothing(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await leader.put(b"n", b"0")

            async def increment() -> None:
                while True:
                    value = await leader.get(b"n")
                    revision = kv_revision(leader, b"n")
                    assert value is not None
                    (outcome,) = await leader.write(envelope.compare_and_swap(b"n", revision, b"%d" % (int(value) + 1)))
                    if outcome.status is Status.OK:
                        return

            await asyncio.gather(*(increment() for _ in range(20)))
            assert await leader.get(b"n") == b"20"

    @virtual
    async def test_a_caller_who_gives_up_harms_nobody(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            writes = [asyncio.create_task(leader.put(b"%d" % number, b"v")) for number in range(20)]
            reads = [asyncio.create_task(leader.get(b"0", ReadMode.QUORUM)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in (*writes[::2], *reads[::2]):
                task.cancel()
            await asyncio.gather(*writes, *reads, return_exceptions=True)
            assert all(not task.cancelled() and task.exception() is None for task in (*writes[1::2], *reads[1::2]))

    @virtual
    async def test_a_full_store_takes_deletes_only(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1, options=replace(OPTIONS, db_size_max_bytes=1)) as cluster:
            leader = await cluster.leader()
            with pytest.raises(QuotaExceededError):
                await leader.put(b"k", b"v")
            await leader.write(envelope.delete(b"k"), grows=False)
            await until("there is an alarm", lambda: bool(leader.replica.status().alarms))
            assert [alarm.code for alarm in leader.replica.status().alarms] == ["RV302"]

    @virtual
    async def test_what_no_correct_peer_sends_raises_an_alarm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            monkeypatch.setattr(leader.watcher, "raft_event", leader.watcher.events.append)
            other = next(node.id for node in cluster.nodes if node is not leader)
            assert not leader.replica.status().alarms
            term = leader.replica.term
            second = Message(MessageType.APPEND, to=leader.id, from_=other, term=term, index=Index(1), log_term=Term(1))
            leader.replica.step([second])
            await until("there is an alarm", lambda: bool(leader.replica.status().alarms))
            [alarm] = leader.replica.status().alarms
            assert alarm.code == "RV601"
            assert f"replica {other} " in alarm.message
            assert leader.replica.is_leader
            await leader.put(b"k", b"v")

    @virtual
    async def test_a_damaged_index_of_slots_refuses_moves_and_raises_an_alarm(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await leader.put(b"k", b"v")
            await leader.store.flush()
            slot = slot_of(b"k")
            assert await leader.replica.verify_slots([slot], 1) == 1
            await leader.store._state.environment.write(lambda txn: txn.delete("slots", slot_key(slot)))
            for _ in range(2):
                with pytest.raises(MoveRefusedError, match=rf"{leader.record.name} \(replica {leader.id}\).* slot {slot} "):
                    await leader.replica.verify_slots([slot], 1)
            [alarm] = leader.replica.status().alarms
            assert (alarm.code, alarm.replica_id, f"slot {slot} " in alarm.message) == ("RV613", leader.id, True)
            assert [event.name for event in leader.events.since(0)].count("alarm-raised") == 1
            await leader.put(b"other", b"w")
            assert await leader.get(b"k") == b"v", "the keys are whole, and the replica goes on"

    @virtual
    async def test_followers_refuse_and_name_the_leader(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            for follower in await cluster.followers():
                for work in (follower.put(b"k", b"v"), follower.get(b"k"), follower.get(b"k", ReadMode.QUORUM)):
                    with pytest.raises(NotLeaderError) as refused:
                        await work
                    assert (refused.value.leader_id, refused.value.leader_address) == (leader.id, leader.record.listen)


def kv_revision(node: Node, key: bytes) -> int:
    found = kv.get(node.replica.reader(), key)
    assert found is not None
    return found.revision


class TestReads:
    @virtual
    async def test_a_leader_with_a_lease_asks_nobody(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            follower, _ = await cluster.followers()
            await leader.put(b"k", b"v")
            await until("it has a lease", lambda: leader.replica.barrier_free(LINEARIZABLE))
            assert not leader.replica.barrier_free(ReadMode.QUORUM)
            assert not follower.replica.barrier_free(LINEARIZABLE)
            assert follower.replica.barrier_free(ReadMode.STALE)
            for _ in range(50):
                assert leader.replica.barrier_free(LINEARIZABLE), "rounds renew the lease before it ends"
                await asyncio.sleep(OPTIONS.tick_s)
            assert await leader.get(b"k", ReadMode.QUORUM) == b"v"

    @virtual
    async def test_a_round_needs_a_majority_and_a_read_without_one_ends(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            cluster.isolate(leader)
            with pytest.raises(ReplicaError):
                await asyncio.wait_for(leader.get(b"k", ReadMode.QUORUM), 4 * ELECTION_S)

    @pytest.mark.parametrize("seed", range(8))
    @virtual
    async def test_an_isolated_leader_never_lies(self, tmp_path: Path, seed: int) -> None:
        async with cluster_of(tmp_path, 3, seed=seed) as cluster:
            old = await cluster.leader()
            await old.put(b"k", b"old")
            await until("it has a lease", lambda: old.replica.barrier_free(LINEARIZABLE))
            cluster.isolate(old)
            orphan = asyncio.create_task(outcome_of(old.put(b"k", b"orphan")))
            overwritten = asyncio.Event()

            async def overwrite() -> None:
                await (await cluster.leader(old)).put(b"k", b"new")
                overwritten.set()

            writing = asyncio.create_task(overwrite())
            while not (overwritten.is_set() and orphan.done()):
                if old.replica.barrier_free(LINEARIZABLE):
                    assert not overwritten.is_set(), "it holds a lease although another leader has committed"
                    assert old.peek(b"k") == b"old"
                await asyncio.sleep(OPTIONS.tick_s / 10)
            await writing
            assert isinstance(orphan.result(), LeadershipLostError), "nobody can say what will become of it"
            with pytest.raises(NotLeaderError):
                await old.get(b"k")
            with pytest.raises(NotLeaderError):
                await old.put(b"k", b"later")
            cluster.network.heal()
            await cluster.converged()
            assert old.peek(b"k") == b"new"

    @virtual
    async def test_no_lease_once_a_transfer_began_even_if_it_fails(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            heir, _ = await cluster.followers()
            await until("it has a lease", lambda: leader.replica.barrier_free(LINEARIZABLE))
            heir.held = lambda message: message.type is MessageType.TIMEOUT_NOW
            transfer = asyncio.create_task(outcome_of(leader.replica.transfer_leader(heir.id, dry_run=False, expect=ANY)))
            await until("it began", lambda: leader.replica.in_transfer)
            while not transfer.done():
                assert not leader.replica.barrier_free(LINEARIZABLE)
                await asyncio.sleep(OPTIONS.tick_s / 2)
            assert isinstance(transfer.result(), TransferFailedError)
            await asyncio.sleep(ELECTION_S)
            assert leader.replica.is_leader
            assert not leader.replica.barrier_free(LINEARIZABLE)
            assert await leader.get(b"k") is None, "without a lease there are rounds"
            await leader.put(b"k", b"v")

    @virtual
    async def test_another_membership_ends_the_lease_until_it_has_answered(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            await until("it has caught up", lambda: learner.id in leader.replica.health().caught_up)
            await until("it has a lease", lambda: leader.replica.barrier_free(LINEARIZABLE))
            leader.held = lambda message: message.type is MessageType.HEARTBEAT_RESPONSE
            await leader.replica.promote([learner.id], dry_run=False, expect=ANY)
            assert not leader.replica.barrier_free(LINEARIZABLE)
            leader.held = None
            await until("it has one again", lambda: leader.replica.barrier_free(LINEARIZABLE))

    @virtual
    async def test_a_new_leader_has_no_lease_before_it_has_applied_what_it_inherited(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=replace(OPTIONS, batch_commands_max=1, apply_commands_max=1)) as cluster:
            old = await cluster.leader()
            await asyncio.gather(*(old.put(b"k", b"%d" % number) for number in range(200)))
            await old.crash()
            new = await cluster.leader(old)
            assert new.peek(b"k") == b"199"


class TestFailover:
    @pytest.mark.parametrize("seed", range(3))
    @virtual
    async def test_nothing_acknowledged_is_lost_when_leaders_crash(self, tmp_path: Path, seed: int) -> None:
        async with cluster_of(tmp_path, 3, seed=seed) as cluster:
            acknowledged: set[bytes] = set()
            refused: set[bytes] = set()
            stop = asyncio.Event()

            async def client(number: int) -> None:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    key = b"%d/%d" % (number, turn)
                    target = cluster.leads()
                    if target is None:
                        await asyncio.sleep(OPTIONS.tick_s)
                        continue
                    answer = await outcome_of(asyncio.wait_for(target.put(key, b"v"), 5.0))
                    if isinstance(answer, int):
                        acknowledged.add(key)
                    elif not isinstance(answer, OutcomeUnknownError):
                        refused.add(key)
                    await asyncio.sleep(0.001)

            clients = [asyncio.create_task(client(number)) for number in range(8)]
            for _ in range(3):
                leader = await cluster.leader()
                await asyncio.sleep(ELECTION_S)
                await leader.crash()
                leader.replica._driver.fail_everything(ReplicaStoppedError())  # its clients' connections break
                await cluster.leader(leader)
                await asyncio.sleep(ELECTION_S)
                await leader.restart()
            stop.set()
            await asyncio.gather(*clients)
            await cluster.converged()
            leader = await cluster.leader()
            assert len(acknowledged) > 100
            assert not [key for key in acknowledged if leader.peek(key) is None]
            assert not [key for key in refused if leader.peek(key) is not None], "it was told that nothing was done"

    @pytest.mark.parametrize("seed", range(3))
    @virtual
    async def test_a_bad_network_neither_loses_nor_repeats(self, tmp_path: Path, seed: int) -> None:
        async with cluster_of(tmp_path, 3, seed=seed) as cluster:
            await cluster.leader()
            cluster.network.faults = Faults(drop=0.03, repeat=0.2, reorder=0.2, reorder_s=0.01)
            done = 0
            unknown = 0
            for number in range(150):
                target = cluster.leads()
                if target is None:
                    await asyncio.sleep(OPTIONS.tick_s)
                    continue
                answer = await outcome_of(asyncio.wait_for(target.put(b"k%d" % number, b"v"), 5.0))
                done += isinstance(answer, int)
                unknown += isinstance(answer, OutcomeUnknownError)
            cluster.network.faults = Faults()
            await cluster.converged()
            revision = (await cluster.leader()).machine.revision
            assert done > 50
            assert done <= revision <= done + unknown, "each put moves the revision by one"

    @virtual
    async def test_a_leader_that_stops_under_load_hands_over_and_answers_everybody(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            writes = [asyncio.create_task(outcome_of(leader.put(b"%d" % number, b"v"))) for number in range(300)]
            await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
            stopping = asyncio.create_task(leader.stop())
            await asyncio.sleep(0)
            with pytest.raises(ReplicaStoppedError):
                await leader.put(b"late", b"v")
            successor = await cluster.leader(leader)
            assert asyncio.get_running_loop().time() - began < ELECTION_S, "somebody had to wait for an election"
            await stopping
            answers = await asyncio.gather(*writes)
            assert not failed(answers), "what was taken before the stop was finished"
            assert all(successor.peek(b"%d" % number) == b"v" for number in range(300))

    @virtual
    async def test_a_stop_during_a_change_that_hangs(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            await until("it has caught up", lambda: learner.id in leader.replica.health().caught_up)
            leader.held = lambda message: message.type is MessageType.APPEND_RESPONSE
            promotion = asyncio.create_task(outcome_of(leader.replica.promote([learner.id], dry_run=False, expect=ANY)))
            await asyncio.sleep(OPTIONS.tick_s)
            began = asyncio.get_running_loop().time()
            await leader.stop()
            assert asyncio.get_running_loop().time() - began < 3.5
            assert isinstance(await asyncio.wait_for(promotion, 1.0), OutcomeUnknownError)
            for work in (leader.put(b"k", b"v"), leader.replica.promote([learner.id], dry_run=False, expect=ANY)):
                with pytest.raises(ReplicaStoppedError):
                    await asyncio.wait_for(work, 1.0)

    @virtual
    async def test_a_stopped_cluster_starts_again_with_all_it_had(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await asyncio.gather(*(leader.put(b"%d" % number, b"v") for number in range(50)))
            for node in cluster.nodes:
                await node.stop()
            for node in cluster.nodes:
                await node.restart()
            leader = await cluster.leader()
            assert await leader.get(b"49") == b"v"
            await cluster.converged()


class TestReadiness:
    @virtual
    async def test_a_replica_is_ready_only_while_it_is_not_far_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = replace(OPTIONS, log_retain_entries=20, batch_commands_max=1)
        async with cluster_of(tmp_path, 3, options=options) as cluster:
            leader = await cluster.leader()
            follower, other = await cluster.followers()
            await until("all are ready", lambda: all(node.replica.ready for node in cluster.nodes))
            full = True
            monkeypatch.setattr(DiskStore, "congested", property(lambda store: full and store is follower.store))
            await asyncio.gather(*(leader.put(b"%d" % number, b"v") for number in range(50)))
            await until("it knows of them", lambda: follower.replica._raw.commit >= leader.replica.applied.index)
            assert not follower.replica.ready
            assert other.replica.ready
            full = False
            await until("it has caught up", lambda: follower.replica.ready)

    @virtual
    async def test_a_shorter_timing_keeps_what_an_earlier_start_has_promised(self, tmp_path: Path) -> None:
        """The leader of that time may still count on it."""
        async with cluster_of(tmp_path, 3, options=replace(OPTIONS, election_ticks=40)) as cluster:
            await cluster.leader()
            node = (await cluster.followers())[0]
            promised_us = node.store.boot.promise_us
            assert promised_us == vote_promise_us(40, OPTIONS.tick_s)
            cluster.options = OPTIONS
            for starts in (2, 3):
                await node.crash()
                await node.restart()
                assert (node.store.boot.number, node.store.boot.promise_us) == (starts, promised_us)
            assert vote_promise_us(OPTIONS.election_ticks, OPTIONS.tick_s) < promised_us


class TestSnapshots:
    OPTIONS = replace(OPTIONS, log_retain_entries=10, batch_commands_max=1)

    async def fill(self, cluster: Cluster, past: int) -> Node:
        """Write until the leader's log begins after `past`."""
        leader = await cluster.leader()
        await asyncio.gather(*(leader.put(b"%d" % number, b"v") for number in range(150)))
        await until("the log is compacted", lambda: leader.replica.status().first_index > past + 1)
        return leader

    @virtual
    async def test_a_follower_far_behind_gets_one_and_goes_on(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=self.OPTIONS) as cluster:
            away = (await cluster.followers())[0]
            last = away.store.last_index()
            await away.crash()
            leader = await self.fill(cluster, last)
            await away.restart()
            await cluster.converged()
            assert away.replica.status().first_index > last + 1, "it came by a snapshot"
            assert not leader.store._held, "what was held for the transfer is let go"
            assert not leader.replica._snapshots.sending

    @virtual
    async def test_a_transfer_that_breaks_is_tried_again(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=self.OPTIONS) as cluster:
            away = (await cluster.followers())[0]
            await away.crash()
            leader = await self.fill(cluster, away.store.last_index())
            await away.restart()
            refusals = 0
            receive = away.replica.receive_snapshot

            async def refuse(*args: Any) -> Any:
                nonlocal refusals
                refusals += 1
                if refusals < 4:
                    raise ConnectionError
                return await receive(*args)

            patch(away.replica, "receive_snapshot", refuse)
            await cluster.converged()
            assert refusals == 4
            assert not leader.store._held

    @virtual
    async def test_one_that_is_removed_while_it_is_sent_one(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=self.OPTIONS) as cluster:
            away = (await cluster.followers())[0]
            await away.crash()
            leader = await self.fill(cluster, away.store.last_index())
            await away.restart()
            never = asyncio.Event()
            patch(away.replica, "receive_snapshot", lambda *_: never.wait())
            await until("it is on its way", lambda: bool(leader.store._held))
            await leader.replica.remove([away.id], dry_run=False, expect=ANY)
            await until("it is let go", lambda: not leader.store._held)
            assert not leader.replica._snapshots.sending
            await leader.put(b"k", b"v")


class TestMembership:
    @virtual
    async def test_from_one_to_three_and_back(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            first = await cluster.leader()
            await asyncio.gather(*(first.put(b"%d" % number, b"v") for number in range(100)))
            for number in (2, 3):
                joiner = await cluster.join(number)
                await until("it votes", lambda joiner=joiner: joiner.id in first.replica.conf_state.voters)  # type: ignore[misc]
            await cluster.converged()
            assert [member.record.auto_promote for member in first.replica.members()] == [False] * 3
            verdict = await first.replica.remove([ReplicaId(2), ReplicaId(3)], dry_run=False, expect=ANY)
            assert verdict.after.voters == (1,)
            await until("nobody else is left", lambda: first.replica.conf_state.voters == (1,))
            await first.put(b"alone", b"v")
            for gone in cluster.nodes[1:]:
                await until("it knows", lambda gone=gone: gone.replica.status().removed)  # type: ignore[misc]

    @virtual
    async def test_several_learners_are_promoted_in_one_joint_change(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            joiners = [await cluster.join(number, auto_promote=False) for number in (2, 3)]
            ids = [joiner.id for joiner in joiners]
            await until("they have caught up", lambda: set(ids) <= leader.replica.health().caught_up)
            await cluster.starts_recorded()
            before = leader.replica._raw.last_index
            await leader.replica.promote(ids, dry_run=False, expect=ANY)
            assert leader.replica.conf_state.voters == (1, 2, 3)
            assert not leader.replica.conf_state.voters_outgoing
            assert leader.machine.config_index == before + 2, "the joint configuration, and its end"
            again = await leader.replica.promote(ids, dry_run=False, expect=ANY)
            assert again.allowed

    @virtual
    async def test_a_change_whose_joint_configuration_does_not_end_stops_waiting(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            joiners = [await cluster.join(number, auto_promote=False) for number in (4, 5)]
            ids = [joiner.id for joiner in joiners]
            await until("they have caught up", lambda: set(ids) <= leader.replica.health().caught_up)
            patch(leader.replica._raw._raft, "_leave_joint", lambda: None)
            with pytest.raises(ChangeInProgressError, match="the end of the joint configuration is not committed"):
                await leader.replica.promote(ids, dry_run=False, expect=ANY)
            assert set(leader.replica.conf_state.voters) == {1, 2, 3, 4, 5}
            successor = (await cluster.followers())[0]
            await leader.replica.transfer_leader(successor.id, dry_run=False, expect=ANY)
            await until("the next leader ends it", lambda: not successor.replica.conf_state.voters_outgoing)

    @virtual
    async def test_a_learner_that_is_behind_is_not_promoted(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            await learner.crash()
            await asyncio.sleep(2 * ELECTION_S)
            with pytest.raises(NotCaughtUpError):
                await leader.replica.promote([learner.id], dry_run=False, expect=ANY)

    @virtual
    async def test_joins_that_race(self, tmp_path: Path) -> None:
        """A server asks twice, and another one under its name asks too; the first votes before the others were looked for."""
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            joiner = await cluster.blank(2)
            rival = replace(record(7), name="n2", replica_id=ReplicaId(0))
            probe = leader.replica._transport.probe
            gate = asyncio.Event()
            asked = 0

            async def slower(address: str, timeout_s: float) -> ProbeAnswer:
                nonlocal asked
                asked += 1
                if asked > 1:
                    await gate.wait()
                if address == rival.peer:
                    return ProbeAnswer(rival.server_id, "", ReplicaId(0), "0", "0" * 16)
                return await probe(address, timeout_s)

            patch(leader.replica._transport, "probe", slower)
            wanted = replace(joiner.record, replica_id=ReplicaId(0), auto_promote=True)
            first, again, taken = (
                asyncio.create_task(outcome_of(leader.replica.add_member(each, dry_run=False, expect=ANY)))
                for each in (wanted, wanted, rival)
            )
            member, _ = await first
            await cluster.seat(joiner, member)
            await until("it votes", lambda: joiner.id in leader.replica.conf_state.voters)
            gate.set()
            assert (await again)[0].replica_id == member.replica_id
            assert isinstance(await taken, NameTakenError)
            assert joiner.id in leader.replica.conf_state.voters, "the late answer made it a learner again"

    @virtual
    async def test_two_changes_at_once(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 5) as cluster:
            leader = await cluster.leader()
            one, two, *_ = await cluster.followers()
            answers = await asyncio.gather(
                outcome_of(leader.replica.remove([one.id], dry_run=False, expect=ANY)),
                outcome_of(leader.replica.remove([two.id], dry_run=False, expect=ANY)),
            )
            assert [isinstance(answer, ChangeInProgressError) for answer in answers] == [False, True]
            cancelled = asyncio.create_task(leader.replica.remove([two.id], dry_run=False, expect=ANY))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            await leader.replica.remove([two.id], dry_run=False, expect=ANY)
            assert len(leader.replica.conf_state.voters) == 3

    @virtual
    async def test_a_change_that_the_driver_never_came_to_is_answered_when_the_replica_ends(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            await until("it has caught up", lambda: learner.id in leader.replica.health().caught_up)
            patch(leader.replica._driver.inbox, "call", lambda function: None)
            promotion = asyncio.create_task(outcome_of(leader.replica.promote([learner.id], dry_run=False, expect=ANY)))
            await asyncio.sleep(0)
            await asyncio.wait_for(leader.replica.stop(), 10.0)
            assert isinstance(await asyncio.wait_for(promotion, 1.0), ReplicaError)

    @virtual
    async def test_a_removal_can_be_repeated(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            gone, _ = await cluster.followers()
            await leader.replica.remove([gone.id], dry_run=False, expect=ANY)
            at = leader.machine.config_index
            verdict = await leader.replica.remove([gone.id], dry_run=False, expect=ANY)
            assert verdict.allowed
            assert leader.machine.config_index == at

    @virtual
    async def test_what_was_decided_on_an_old_view_is_refused(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            one, two = await cluster.followers()
            seen = Expectation(leader.replica.term, leader.machine.config_index)
            await leader.replica.remove([one.id], dry_run=False, expect=seen)
            with pytest.raises(StaleViewError):
                await leader.replica.remove([two.id], dry_run=False, expect=seen)
            with pytest.raises(StaleViewError):
                await leader.replica.transfer_leader(two.id, dry_run=False, expect=Expectation(term=leader.replica.term - 1))

    @virtual
    async def test_what_is_inherited_may_make_the_view_an_old_one(self, tmp_path: Path) -> None:
        """A new leader waits until what it inherited is applied; a membership change may be among that."""
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            follower, _ = await cluster.followers()
            raw, machine = leader.replica._raw, leader.machine
            refusal = raw.conf_change_refusal

            def pending(_: object) -> str:
                patch(machine, "_config_index", machine.config_index + 1)
                patch(raw, "conf_change_refusal", refusal)
                return "an inherited change is not applied yet"

            patch(raw, "conf_change_refusal", pending)
            seen = Expectation(config_index=machine.config_index)
            with pytest.raises(StaleViewError):
                await leader.replica.remove([follower.id], dry_run=False, expect=seen)
            assert follower.id in leader.replica.conf_state.voters

    @virtual
    async def test_a_join_whose_answer_was_lost_is_answered_again_whether_or_not_the_joiner_is_up(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            joiner = await cluster.join(2)
            await joiner.crash()
            asked = replace(joiner.record, replica_id=ReplicaId(0))
            member, _ = await leader.replica.add_member(asked, dry_run=False, expect=ANY)
            assert member is not None
            assert member.replica_id == joiner.id

    @virtual
    async def test_a_leader_that_is_to_go_hands_over_and_names_the_new_one(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            with pytest.raises(NotLeaderError) as refused:
                await leader.replica.remove([leader.id], dry_run=False, expect=ANY)
            successor = await cluster.leader(leader)
            assert refused.value.leader_id == successor.id
            await successor.replica.remove([leader.id], dry_run=False, expect=ANY)
            await until("it knows", lambda: leader.replica.status().removed)
            await successor.put(b"k", b"v")

    @virtual
    async def test_who_goes_too_is_no_heir(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            gone, heir = await cluster.followers()
            with pytest.raises(NotLeaderError):
                await leader.replica.remove([leader.id, gone.id], dry_run=False, expect=ANY)
            assert (await cluster.leader(leader)) is heir

    @virtual
    async def test_transfer(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            target, other = await cluster.followers()
            await leader.replica.transfer_leader(target.id, dry_run=False, expect=ANY)
            assert leader.replica.leader_id == target.id
            assert (await cluster.leader()) is target
            await other.crash()
            await asyncio.sleep(2 * ELECTION_S)
            with pytest.raises(UnsafeChangeError, match="does not answer"):
                await target.replica.transfer_leader(other.id, dry_run=False, expect=ANY)
            assert (await cluster.leader()) is target

    @virtual
    async def test_who_cannot_lead_is_told_by_the_verdict_too(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            verdict = await leader.replica.transfer_leader(learner.id, dry_run=True, expect=ANY)
            assert (verdict.allowed, verdict.reason) == (False, f"replica {learner.id} is a learner and cannot lead")
            assert verdict.before == verdict.after

    @virtual
    async def test_stepping_down_lets_the_voters_elect(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            term = leader.replica.term
            assert (await leader.replica.step_down(dry_run=True, expect=ANY)).allowed
            assert leader.replica.is_leader
            await leader.replica.step_down(dry_run=False, expect=ANY)
            assert leader.replica.term > term
            await (await cluster.leader()).put(b"k", b"v")

    @virtual
    async def test_nobody_steps_down_where_nobody_could_follow(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            with pytest.raises(UnsafeChangeError, match="nobody can take over"):
                await leader.replica.step_down(dry_run=False, expect=ANY)
            assert leader.replica.is_leader

    @virtual
    async def test_a_voter_becomes_a_learner_and_stays_one(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            one, two = await cluster.followers()
            plan = Plan(demote=(one.id,))
            assert (await leader.replica.change_members(plan, dry_run=True, expect=ANY)).after.learners == (one.id,)
            await leader.replica.change_members(plan, dry_run=False, expect=ANY)
            await asyncio.sleep(3 * ELECTION_S)
            assert set(leader.replica.conf_state.voters) == {leader.id, two.id}
            assert leader.replica.conf_state.learners == (one.id,)
            await leader.put(b"k", b"v")
            await until("it has it too", lambda: one.peek(b"k") == b"v")
            at = leader.machine.config_index
            await leader.replica.change_members(plan, dry_run=False, expect=ANY)
            assert leader.machine.config_index == at, "what is so already is no change"
            await leader.replica.promote([one.id], dry_run=False, expect=ANY)
            assert one.id in leader.replica.conf_state.voters

    @virtual
    async def test_a_replacement_is_one_change(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            gone, _ = await cluster.followers()
            new = await cluster.join(4, auto_promote=False)
            await until("it caught up", lambda: new.id in leader.replica.health().caught_up)
            plan = Plan(promote=(new.id,), remove=(gone.id,))
            verdict = await leader.replica.change_members(plan, dry_run=False, expect=ANY)
            assert set(leader.replica.conf_state.voters) == set(verdict.after.voters)
            assert (len(verdict.after.voters), gone.id in verdict.after.voters) == (3, False)
            await until("it knows", lambda: gone.replica.status().removed)
            await leader.put(b"k", b"v")

    @virtual
    async def test_a_leader_that_is_to_be_a_learner_hands_over_first(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            with pytest.raises(NotLeaderError):
                await leader.replica.change_members(Plan(demote=(leader.id,)), dry_run=False, expect=ANY)
            successor = await cluster.leader(leader)
            await successor.replica.change_members(Plan(demote=(leader.id,)), dry_run=False, expect=ANY)
            assert leader.id in successor.replica.conf_state.learners

    @virtual
    async def test_another_leader_than_the_chosen_one_is_no_success(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            target, other = await cluster.followers()
            target.held = lambda message: message.type is MessageType.TIMEOUT_NOW
            transfer = asyncio.create_task(leader.replica.transfer_leader(target.id, dry_run=False, expect=ANY))
            await until("it began", lambda: leader.replica.in_transfer)
            other.replica.step([Message(MessageType.TIMEOUT_NOW, to=other.id, from_=leader.id, term=leader.replica.term)])
            with pytest.raises(TransferFailedError, match=f"replica {other.id} leads"):
                await transfer

    @virtual
    async def test_a_removed_replica_stays_out_after_a_restart(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            gone, _ = await cluster.followers()
            await gone.crash()
            await leader.replica.remove([gone.id], dry_run=False, expect=ANY)
            term = leader.replica.term
            await gone.restart()
            await until("a peer tells it", lambda: gone.replica.status().removed)
            for _ in range(2):
                assert not gone.watch.done(), "it goes on to answer that it was removed"
                assert not gone.replica._transport._peers, "it goes on to dial those who do not want it"  # type: ignore[attr-defined]
                for work in (gone.put(b"k", b"v"), gone.get(b"k"), gone.get(b"k", ReadMode.STALE)):
                    with pytest.raises(RemovedError):
                        await work
                assert not gone.replica.barrier_free(ReadMode.STALE)
                await gone.stop()
                await gone.restart()
            await asyncio.sleep(3 * ELECTION_S)
            assert leader.replica.term == term, "it disturbs no election"
            with pytest.raises(ReplicaError, match="removed"):
                await leader.replica.add_member(replace(gone.record, replica_id=ReplicaId(0)), dry_run=False, expect=ANY)

    @virtual
    async def test_a_leader_cut_off_and_removed_meanwhile(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            old = await cluster.leader()
            cluster.isolate(old)
            orphan = asyncio.create_task(outcome_of(old.put(b"orphan", b"v")))
            new = await cluster.leader(old)
            await asyncio.sleep(ELECTION_S)
            await new.replica.remove([old.id], dry_run=False, expect=ANY)
            cluster.network.heal()
            await until("it knows", lambda: old.replica.status().removed)
            assert isinstance(await orphan, OutcomeUnknownError)
            assert not old.watch.done()
            assert not old.replica.is_leader

    @virtual
    async def test_a_peer_address_at_which_the_member_does_not_answer_is_refused(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            other, third = await cluster.followers()
            for wanted, why in (
                (replace(other.record, peer="nowhere"), f"cannot reach {other.record.name} at its peer address nowhere"),
                (
                    replace(other.record, peer=third.record.peer),
                    f"answers server {third.record.server_id}, not {other.record.name}",
                ),
                (replace(leader.record, peer="nowhere"), f"leads and was started with the peer address {leader.record.peer}"),
            ):
                for dry_run in (True, False):
                    with pytest.raises(UnreachableMemberError, match=re.escape(why)):
                        await leader.replica.update_member(wanted, dry_run=dry_run, expect=ANY)
            await other.crash()
            await leader.replica.update_member(replace(other.record, version="9"), expect=ANY)  # its address is left as it was
            assert leader.machine.members[other.id].peer == other.record.peer

    @virtual
    async def test_promotion_does_not_undo_an_update_of_the_record(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(2, auto_promote=False)
            await until("it has caught up", lambda: learner.id in leader.replica.health().caught_up)
            moved = replace(learner.record, listen="client-elsewhere")
            tried = await leader.replica.update_member(moved, dry_run=True, expect=ANY)
            assert (tried.record.listen, leader.machine.members[learner.id]) == (moved.listen, learner.record)
            with pytest.raises(MembershipError, match="choose another name"):
                await leader.replica.update_member(replace(moved, name=leader.record.name), dry_run=True, expect=ANY)
            answers = await asyncio.gather(
                outcome_of(leader.replica.update_member(moved, expect=ANY)),
                outcome_of(leader.replica.promote([learner.id], dry_run=False, expect=ANY)),
            )
            assert [isinstance(answer, ChangeInProgressError) for answer in answers] == [False, True]
            await leader.replica.promote([learner.id], dry_run=False, expect=ANY)
            assert leader.machine.members[learner.id].listen == "client-elsewhere"
