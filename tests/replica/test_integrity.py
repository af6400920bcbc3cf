"""Replicas hash their states at one entry, the leader compares, and nothing of a later format is proposed too early."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ravel_node.machine import envelope
from ravel_node.machine.base import Database
from ravel_node.raft import Index, ReplicaId, Term
from ravel_node.replica.errors import NotLeaderError, UnsupportedVersionError
from ravel_node.replica.integrity import KEPT, Comparison, ReplicaHash, compare
from ravel_node.storage.keys import STATE_NAMES, seal, seed_of
from ravel_node.transport.base import HashAt, StateHashes
from tests.replica.cluster import ANY, OPTIONS, Cluster, Node, cluster_of, outcome_of, until
from tests.replica.virtual import virtual

ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)


# --- the comparison itself


def told(**hashes: str) -> StateHashes:
    """`i7="a"`: at entry 7 the hash is a."""
    return StateHashes(Index(99), tuple(HashAt(Index(int(at[1:])), Term(1), sha.encode()) for at, sha in hashes.items()))


def test_equal_hashes_are_equal() -> None:
    same = told(i7="a")
    assert compare(Index(7), {ONE: same, TWO: same}) == (ReplicaHash(ONE, b"a"), ReplicaHash(TWO, b"a"))


def test_who_differs_from_most_is_named_with_the_range_of_its_going_astray() -> None:
    right = told(i3="p", i5="q", i7="a", i9="b")
    found = compare(Index(9), {ONE: right, TWO: told(i3="p", i5="q", i7="x", i9="y"), THREE: right})
    assert found == (ReplicaHash(ONE, b"b"), ReplicaHash(TWO, b"y", "", True, Index(5), Index(7)), ReplicaHash(THREE, b"b"))


def test_without_a_majority_all_are_named() -> None:
    found = compare(Index(9), {ONE: told(i5="p", i9="a"), TWO: told(i5="p", i9="b"), THREE: "away"})
    assert [(one.differs, one.agreed_index, one.differed_index, one.problem) for one in found] == [
        (True, 5, 9, ""),
        (True, 5, 9, ""),
        (False, 0, 0, "away"),
    ]


def test_one_that_never_agreed_or_gave_nothing() -> None:
    right = told(i7="a")
    first, second, third = compare(Index(7), {ONE: right, TWO: right, THREE: told(i7="b")})
    assert (third.agreed_index, third.differed_index) == (0, 7)
    _, second = compare(Index(7), {ONE: right, TWO: told(i5="a")})
    assert not second.differs
    assert "restarted" in second.problem
    assert not first.differs


def test_nobody_gave_one() -> None:
    assert compare(Index(7), {ONE: "a", TWO: "b"}) == (ReplicaHash(ONE, problem="a"), ReplicaHash(TWO, problem="b"))


# --- whole clusters


async def corrupt(node: Node, key: bytes = b"k", value: bytes = b"forged", database: Database = Database.KV) -> None:
    """Give one replica another value than its log says, with a right check sum, on its disk."""
    await node.store.flush()
    name = STATE_NAMES[database]
    record = seal(seed_of(name), key, (1).to_bytes(8, "big") + value)
    await node.store._state.environment.write(lambda txn: txn.put(name, key, record))


async def compared(cluster: Cluster) -> Comparison:
    return await (await cluster.leader()).replica.compare_states()


def alarms(node: Node) -> list[tuple[str, int, str]]:
    return [(a.code, a.replica_id, a.message) for a in node.replica.status().alarms if a.code == "RV602"]


@virtual
async def test_all_replicas_hash_the_same_at_the_same_entry(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        for number in range(100):
            await leader.put(b"k%d" % number, b"v")
        found = await compared(cluster)
        assert len({one.sha256 for one in found.replicas}) == 1
        assert [one.replica_id for one in found.replicas] == [1, 2, 3]
        assert not any(one.differs or one.problem for one in found.replicas)
        await leader.put(b"more", b"v")
        later = await compared(cluster)
        assert later.at.index > found.at.index
        assert later.replicas[0].sha256 != found.replicas[0].sha256
        assert all(not alarms(node) for node in cluster.nodes)


@virtual
async def test_a_difference_raises_an_alarm_that_names_replica_and_range_and_clears_when_they_agree(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        agreed = (await compared(cluster)).at.index
        wrong = (await cluster.followers())[0]
        await corrupt(wrong)
        differed = (await compared(cluster)).at.index
        newest = await compared(cluster)
        (one,) = [one for one in newest.replicas if one.differs]
        assert (one.replica_id, one.agreed_index, one.differed_index) == (wrong.id, agreed, differed)
        ((code, subject, message),) = alarms(leader)
        assert (code, subject) == ("RV602", wrong.id)
        others = " ".join(node.record.name for node in cluster.nodes if node is not wrong)
        assert f"the state of {wrong.record.name} is not that of {others} at entry {differed}" in message
        assert f"they were equal at entry {agreed}" in message
        assert any(event.name == "alarm-raised" and "RV602" in event.text for event in leader.events.since(0))
        await leader.put(b"k", b"new")  # now every replica has the same again
        assert not any(one.differs for one in (await compared(cluster)).replicas)
        assert not alarms(leader)
        assert any(event.name == "alarm-cleared" and "RV602" in event.text for event in leader.events.since(0))


@virtual
async def test_a_replica_that_forgot_its_hashes_is_remembered_by_the_leader(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        agreed = (await compared(cluster)).at.index
        wrong = (await cluster.followers())[0]
        await corrupt(wrong)
        await wrong.stop()
        await wrong.restart()
        await until("it has caught up", lambda: wrong.replica.applied.index >= leader.replica.applied.index)
        differed = (await compared(cluster)).at.index
        (one,) = [one for one in (await compared(cluster)).replicas if one.differs]
        assert (one.replica_id, one.agreed_index, one.differed_index) == (wrong.id, agreed, differed)


@virtual
async def test_the_next_leader_knows_of_a_difference_without_a_new_entry(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        agreed = (await compared(cluster)).at.index
        wrong, heir = await cluster.followers()
        await corrupt(wrong)
        differed = (await compared(cluster)).at.index
        await leader.replica.transfer_leader(heir.id, dry_run=False, expect=ANY)
        assert not alarms(leader)
        await until("the new leader raises it too", lambda: bool(alarms(heir)))
        assert f"entry {differed}" in alarms(heir)[0][2]
        assert f"entry {agreed}" in alarms(heir)[0][2]


@virtual
async def test_who_is_away_or_has_none_is_told_and_no_alarm(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        away, back = await cluster.followers()
        cluster.isolate(away)
        await until("it is not heard of", lambda: away.id not in leader.replica.health().live)
        found = await compared(cluster)
        (one,) = [one for one in found.replicas if not one.sha256]
        assert one.replica_id == away.id
        assert "no replica answers" in one.problem
        cluster.network.heal()
        await back.stop()
        await back.restart()
        await cluster.converged()
        assert all(one.sha256 for one in (await compared(cluster)).replicas)
        assert not alarms(leader)


@virtual
async def test_a_follower_that_took_a_snapshot_hashes_as_the_others(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 2) as cluster:
        leader = await cluster.leader()
        for number in range(20):
            await leader.put(b"k%d" % number, b"v")
        first = await compared(cluster)
        joined = await cluster.join(3)
        await until("it is a voter", lambda: joined.id in leader.replica.conf_state.voters)
        found = await compared(cluster)
        assert found.at.index > first.at.index
        assert len({one.sha256 for one in found.replicas}) == 1
        assert [one.replica_id for one in found.replicas] == [1, 2, 3]


@virtual
async def test_compared_every_so_often_by_the_leader_alone(tmp_path: Path) -> None:
    options = replace(OPTIONS, checksum_interval_s=3.0)
    async with cluster_of(tmp_path, 3, options=options) as cluster:
        leader = await cluster.leader()
        wrong = (await cluster.followers())[0]
        await leader.put(b"k", b"v")
        await asyncio.sleep(5)
        assert [len(node.replica.state_hashes().hashes) for node in cluster.nodes] == [1, 1, 1]
        await corrupt(wrong)
        await asyncio.sleep(4)
        assert alarms(leader)[0][1] == wrong.id
        await asyncio.sleep(4 * (KEPT + 3))
        assert [len(node.replica.state_hashes().hashes) for node in cluster.nodes] == [KEPT] * 3
        ((_, _, message),) = alarms(leader)
        assert "equal at entry" in message  # though the entry at which they were is forgotten by now


@virtual
async def test_never_where_the_interval_is_0(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1, options=replace(OPTIONS, checksum_interval_s=0.0)) as cluster:
        leader = await cluster.leader()
        await asyncio.sleep(10)
        assert not leader.replica.state_hashes().hashes
        assert (await compared(cluster)).replicas[0].sha256


@virtual
async def test_only_the_leader_compares_and_only_while_it_leads(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        follower, _ = await cluster.followers()
        with pytest.raises(NotLeaderError):
            await follower.replica.compare_states()
        cluster.isolate(leader)
        answer = await asyncio.wait_for(outcome_of(leader.replica.compare_states()), 60)
        assert isinstance(answer, Exception)


# --- rolling upgrades


@virtual
async def test_nothing_new_is_proposed_until_every_member_knows_it(tmp_path: Path) -> None:
    options = replace(OPTIONS, checksum_interval_s=2.0)
    async with cluster_of(tmp_path, 3, options=options) as cluster:
        leader = await cluster.leader()
        old = (await cluster.followers())[0]
        await leader.replica.update_member(replace(old.record, format=1, version="0.0.9"), expect=ANY)
        with pytest.raises(UnsupportedVersionError, match=rf"need format 2.*{old.record.name} \(version 0.0.9, format 1\)"):
            await leader.replica.compare_states()
        await asyncio.sleep(8)
        assert not any(node.replica.state_hashes().hashes for node in cluster.nodes)
        await leader.replica.update_member(old.record, expect=ANY)
        assert all(one.sha256 for one in (await compared(cluster)).replicas)


@virtual
async def test_entries_carry_a_time_once_every_member_reads_it(tmp_path: Path) -> None:
    """The clock of the leader as it packed the entry, the same on every replica."""
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        old = (await cluster.followers())[0]

        async def time_of_a_put(key: bytes) -> int:
            await leader.put(key, b"")
            at = leader.replica.applied.index
            await until("all have applied it", lambda: all(node.replica.applied.index >= at for node in cluster.nodes))
            logs = [node.store.entries(Index(at), Index(at + 1), 1 << 20)[0].data for node in cluster.nodes]
            assert len(set(logs)) == 1
            return envelope.read_time(logs[0])

        before = leader.events.wall_ms
        assert before <= await time_of_a_put(b"a") <= leader.events.wall_ms
        await leader.replica.update_member(replace(old.record, format=3, version="0.0.9"), expect=ANY)
        assert await time_of_a_put(b"b") == 0
        await leader.replica.update_member(old.record, expect=ANY)
        assert await time_of_a_put(b"c") > before


@virtual
async def test_no_older_server_is_taken_in_once_all_know_more(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        leader = await cluster.leader()
        old = await cluster.blank(2)
        record = replace(old.record, replica_id=ReplicaId(0), format=1)
        with pytest.raises(UnsupportedVersionError, match="knows format 1, and all members know 5"):
            await leader.replica.add_member(record, dry_run=False, expect=ANY)
        await leader.replica.update_member(replace(leader.record, format=1), expect=ANY)
        member, _ = await leader.replica.add_member(record, dry_run=False, expect=ANY)
        assert member is not None
        await cluster.seat(old, member)
