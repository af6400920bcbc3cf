"""Handshakes: who may talk to a replica, and how an old or copied data directory shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ravel_node.machine.high_water import HighWaterMark
from ravel_node.raft import Index, Message, MessageType, RawNode, ReplicaId, Term
from ravel_node.replica.errors import (
    CopiedDirectoryError,
    OutdatedDirectoryError,
    RemovedError,
    WrongClusterError,
    WrongIdentityError,
)
from ravel_node.replica.peer_marks import PeerMarks
from ravel_node.replica.status import Expectation
from ravel_node.transport.base import Hello, MemberAddress, ProbeAnswer
from tests.replica.cluster import Cluster, Node, cluster_of, until
from tests.replica.virtual import virtual

ANY = Expectation()


async def three(cluster: Cluster) -> tuple[Node, Node]:
    """The leader, and a follower whose start and acknowledgements it knows."""
    leader = await cluster.leader()
    await leader.put(b"k", b"v")
    await cluster.starts_recorded()
    return leader, (await cluster.followers())[0]


class TestMarks:
    @virtual
    async def test_a_start_is_on_disk_before_a_peer_is_admitted(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            mark = leader.store.peer_marks[follower.id]
            assert (mark.boot_number, mark.boot_id) == (follower.store.boot.number, follower.replica.boot_id)

    @virtual
    async def test_a_directory_is_not_made_newer_by_starting_it_more_often(self, tmp_path: Path) -> None:
        """A member that has met only a start of it, and no message, remembers the term in which that was."""
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            started = follower.replica.hello()
            later = replace(started, term=Term(started.term + 3), boot_number=started.boot_number + 1, boot_id="e" * 16)
            marks = leader.replica.admission._marks
            await marks.record_start(later)
            put_back = replace(started, boot_number=later.boot_number + 5, boot_id="f" * 16)
            assert f"it holds term {started.term}" in marks.objection(put_back)
            assert leader.store.peer_marks[follower.id].term == later.term

    @virtual
    async def test_acknowledged_and_committed_entries_and_terms_are_on_disk_within_seconds(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            for number in range(20):
                await leader.put(b"%d" % number, b"v")
            commit = leader.replica._raw.commit
            # The acknowledgement that commits an entry arrives before the commit index moves: the one before it is certain.
            await until("the marks are recorded", lambda: leader.store.peer_marks[follower.id].index >= commit - 1, within_s=5)
            assert leader.store.peer_marks[follower.id].term == leader.replica.term

    @virtual
    async def test_the_log_holds_the_starts_of_all(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            await three(cluster)
            for node in cluster.nodes:
                assert set(node.machine.marks) == {1, 2, 3}
            gone = cluster.nodes[2]
            await gone.crash()
            await gone.restart()
            await cluster.starts_recorded()
            assert cluster.nodes[0].machine.marks[gone.id].boot_number == 2

    @virtual
    async def test_an_idle_cluster_shares_no_marks(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, _ = await three(cluster)
            last = leader.replica._raw.last_index
            marks: PeerMarks = leader.replica._marks
            own = HighWaterMark(1, leader.replica.boot_id, leader.replica.term, leader.replica._raw.commit)
            assert marks.to_share((ReplicaId(number) for number in (1, 2, 3)), own, leader.id, 1e9) == {}
            assert leader.replica._raw.last_index == last

    @virtual
    async def test_pre_votes_raise_no_mark(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            term = leader.replica.term
            for kind in (MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE):
                leader.replica._marks.received(Message(kind, to=leader.id, from_=follower.id, term=Term(term + 9)))
            assert leader.replica._marks.of(follower.id).term == term


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda hello: replace(hello, boot_number=0), ""),  # an older version, which says none of this
        (lambda hello: hello, ""),
        (lambda hello: replace(hello, boot_number=hello.boot_number + 1, boot_id="f" * 16), ""),
        (lambda hello: replace(hello, boot_number=hello.boot_number - 1, boot_id="f" * 16), "it counts 1 starts"),
        (lambda hello: replace(hello, boot_id="f" * 16), "two processes were started from it for the 2nd time"),
        (lambda hello: replace(hello, term=Term(hello.term - 1)), "has spoken in term"),
        (lambda hello: replace(hello, last_index=Index(hello.last_index - 1)), "has acknowledged entry"),
    ],
)
@virtual
async def test_what_shows_that_a_directory_is_old(tmp_path: Path, change: Callable[[Hello], Hello], why: str) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        _, follower = await three(cluster)
        await follower.crash()
        await follower.restart()
        await cluster.starts_recorded()
        leader = await cluster.leader()
        await leader.put(b"after", b"v")
        await cluster.converged()
        hello = change(follower.replica.hello())
        objection = leader.replica._marks.objection(hello)
        assert why in objection
        assert bool(why) == bool(objection)


@virtual
async def test_the_leader_knows_also_what_is_not_committed_yet(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 5) as cluster:
        leader = await cluster.leader()
        await cluster.starts_recorded()
        follower, *others = await cluster.followers()
        for other in others:
            other.held = lambda message: message.type is MessageType.APPEND  # so that nothing is committed
        last = leader.replica._raw.last_index

        def propose(raw: RawNode) -> None:
            raw.propose_many([b""])

        leader.replica._driver.inbox.call(propose)
        status = leader.replica._raw.status
        await until("one follower has acknowledged it", lambda: status().progress[follower.id].match == last + 1)
        hello = follower.replica.hello()
        assert leader.replica._marks.objection(hello) == ""
        assert "acknowledged entry" in leader.replica._marks.objection(replace(hello, last_index=last))


class TestAdmission:
    @virtual
    async def test_an_old_directory_is_refused_and_counts_no_more(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            cluster.isolate(follower)
            old = replace(follower.replica.hello(), last_index=Index(1), boot_number=9, boot_id="f" * 16)
            for _ in range(3):
                with pytest.raises(OutdatedDirectoryError, match=f"the data directory of n{follower.id} is older"):
                    await leader.replica.admission.admit(old, leader.id)
            assert [alarm.replica_id for alarm in leader.replica.status().alarms if alarm.code == "RV614"] == [follower.id]
            await until(
                "its acknowledgements count no more", lambda: leader.replica._raw.status().progress[follower.id].match == 0
            )
            told = [event for event in leader.events.since(0) if event.fields.get("code") == "RV614"]
            assert len(told) == 1, "an alarm is an event once"

    @virtual
    async def test_a_replica_that_is_told_so_ends_and_says_why(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            follower.replica.refused_by_peer(leader.id, "DIRECTORY_OUTDATED", "it is old")
            why = await follower.replica.expelled()
            assert (type(why), str(why)) == (OutdatedDirectoryError, "it is old")
            with pytest.raises(OutdatedDirectoryError):
                follower.replica.check_open()
            assert not follower.store.identity.removed, "another start may prove it wrong"
            assert any(alarm.code == "RV614" for alarm in follower.replica.status().alarms)

    @virtual
    async def test_who_is_no_peer(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            hello, admit = follower.replica.hello(), leader.replica.admission.admit
            with pytest.raises(WrongClusterError, match="a replica of cluster"):
                await admit(replace(hello, cluster_id="d" * 32), leader.id)
            with pytest.raises(WrongClusterError, match="looks for replica 9"):
                await admit(hello, ReplicaId(9))
            with pytest.raises(WrongIdentityError, match="which is this one"):
                await admit(replace(hello, replica_id=leader.id), leader.id)
            with pytest.raises(WrongIdentityError, match="cannot come back under its old id"):
                await admit(replace(hello, server_id="9" * 32), leader.id)

    @virtual
    async def test_a_replica_that_nobody_knows_is_refused(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            stranger = replace(follower.replica.hello(), replica_id=ReplicaId(9), server_id="9" * 32)
            with pytest.raises(WrongIdentityError, match="no member that answers knows replica 9"):
                await leader.replica.admit_peer(stranger, leader.id)

    @virtual
    async def test_members_vouch_for_one_that_this_log_does_not_know(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            _, late = await three(cluster)
            cluster.isolate(late)
            late.held = lambda message: True  # it gets nothing of the log from now on
            joiner = await cluster.join(4)
            cluster.network.heal()
            assert joiner.id not in late.machine.members
            forged = replace(joiner.replica.hello(), server_id="9" * 32)
            with pytest.raises(WrongIdentityError, match="which is server"):
                await late.replica.admit_peer(forged, late.id)
            await late.replica.admit_peer(replace(joiner.replica.hello(), address="elsewhere"), late.id)
            assert late.replica.admission.vouched[joiner.id] == MemberAddress(joiner.record.server_id, joiner.record.peer, False)
            assert late.replica._peers[joiner.id] == joiner.record.peer, "not where it says itself that it is"

    @virtual
    async def test_members_that_know_of_a_removal_say_so(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, late = await three(cluster)
            cluster.isolate(late)
            late.held = lambda message: True
            joiner = await cluster.join(4, auto_promote=False)
            hello = joiner.replica.hello()
            await leader.replica.remove([joiner.id], dry_run=False, expect=ANY)
            known = [node for node in cluster.nodes[:3] if node is not late]
            await until("the others know", lambda: all(node.machine.is_removed(joiner.id) for node in known))
            cluster.network.heal()
            with pytest.raises(RemovedError):
                await late.replica.admit_peer(hello, late.id)


class TestCopies:
    def answering(self, node: Node, cluster: Cluster, boot_id: str) -> None:
        """Have something answer at the recorded address of a node."""
        hello = node.replica.hello()
        answer = ProbeAnswer(hello.server_id, hello.cluster_id, hello.replica_id, "0", boot_id)
        cluster.network.attach(node.record.peer, node, answer)

    @virtual
    async def test_a_start_at_another_address_is_a_copy_while_the_server_answers_at_its_own(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            hello = follower.replica.hello()
            self.answering(follower, cluster, hello.boot_id)
            copy = replace(hello, address="elsewhere", boot_number=hello.boot_number + 1, boot_id="f" * 16)
            with pytest.raises(CopiedDirectoryError, match=r"runs at .*, and a copy of it at elsewhere"):
                await leader.replica.admission.admit(copy, leader.id)
            assert {alarm.code for alarm in leader.replica.status().alarms} == {"RV410"}
            assert leader.store.peer_marks[follower.id].boot_id == hello.boot_id, "the copy leaves no mark"
            await leader.replica.admission.admit(hello, leader.id)

    @virtual
    async def test_a_server_that_listens_elsewhere_too_is_no_copy(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            moved = replace(follower.replica.hello(), address="elsewhere", boot_number=5, boot_id="f" * 16)
            self.answering(follower, cluster, moved.boot_id)
            await leader.replica.admission.admit(moved, leader.id)
            assert leader.store.peer_marks[follower.id].boot_number == 5

    @virtual
    async def test_a_server_that_has_moved_is_admitted(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            moved = replace(follower.replica.hello(), address="elsewhere", boot_number=5, boot_id="f" * 16)
            cluster.network.detach(follower.record.peer)
            await leader.replica.admission.admit(moved, leader.id)

    @virtual
    async def test_an_address_is_not_changed_to_that_of_a_copy(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader, follower = await three(cluster)
            hello = follower.replica.hello()
            self.answering(follower, cluster, hello.boot_id)
            copy = ProbeAnswer(
                hello.server_id, hello.cluster_id, hello.replica_id, "0", "f" * 16, 2, hello.term, hello.last_index
            )
            cluster.network.attach("elsewhere", follower, copy)
            with pytest.raises(CopiedDirectoryError):
                await leader.replica.update_member(replace(follower.record, peer="elsewhere"), expect=ANY)
            assert leader.machine.members[follower.id].peer == follower.record.peer
            cluster.network.detach(follower.record.peer)
            old = replace(copy, last_index=Index(1))
            cluster.network.attach("elsewhere", follower, old)
            with pytest.raises(OutdatedDirectoryError):
                await leader.replica.update_member(replace(follower.record, peer="elsewhere"), expect=ANY)
