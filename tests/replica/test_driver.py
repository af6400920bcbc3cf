"""The driver's own duties: turns that let others run, storage that fails, stalls or is full, and an answer for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ravel_node.machine import envelope, members
from ravel_node.raft import (
    ChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Index,
    InvariantError,
    Message,
    MessageType,
    ReplicaId,
    SingleChange,
    Snapshot,
    Term,
    TransferStarted,
    VoteCast,
)
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.replica.errors import (
    NotLeaderError,
    OutcomeUnknownError,
    ReadTimeoutError,
    ReplicaBusyError,
    ReplicaError,
    ReplicaStoppedError,
)
from ravel_node.replica.reads import ReadMode
from ravel_node.storage.base import Identity, StoreFailedError
from ravel_node.storage.memory import open_memory_store
from tests.replica.cluster import (
    ANY,
    CLUSTER_ID,
    OPTIONS,
    STORE_OPTIONS,
    Cluster,
    Node,
    cluster_of,
    outcome_of,
    patch,
    record,
    until,
)
from tests.replica.virtual import virtual

ELECTION_S = OPTIONS.election_timeout_s


def stall(node: Node, environment: str) -> asyncio.Event:
    """Let the disk under raft/ or state-N/ hang until the event is set."""
    going = asyncio.Event()
    for path, env in node.engine.environments.items():
        if path.name.startswith(environment):
            write = env.write

            async def slow(job: Callable[[Any], Any], write: Any = write) -> Any:
                await going.wait()
                return await write(job)

            patch(env, "write", slow)
    return going


def break_disk(node: Node, environment: str) -> None:
    for path, env in node.engine.environments.items():
        if path.name.startswith(environment):
            env.fail("the test says so")


def breaks(*_: object) -> None:
    raise InvariantError("broken by the test")


class TestTurns:
    @virtual
    async def test_a_store_that_is_congested_pauses_applying_and_nothing_else(self, tmp_path: Path) -> None:
        options = replace(OPTIONS, batch_commands_max=1)
        tight = replace(STORE_OPTIONS, segment_bytes_max=1, unflushed_bytes_max=1)
        async with cluster_of(tmp_path, 1, options=options, store_options=tight) as cluster:
            leader = await cluster.leader()
            flushing = stall(leader, "state-")
            writes = [asyncio.create_task(leader.put(b"%d" % number, b"v")) for number in range(5)]
            await asyncio.sleep(ELECTION_S)
            assert writes[0].done()
            assert not writes[4].done(), "it was applied although the table is full"
            with pytest.raises(ReplicaBusyError, match="disk"):
                await leader.put(b"more", b"v")
            assert leader.replica.is_leader
            flushing.set()
            assert await asyncio.gather(*writes) == [1, 2, 3, 4, 5]

    @virtual
    async def test_an_entry_waits_until_what_it_reads_is_paged_in(self, tmp_path: Path) -> None:
        waits = 0
        store_options = replace(STORE_OPTIONS, major_faults=lambda: waits)
        async with cluster_of(
            tmp_path, 1, options=replace(OPTIONS, batch_commands_max=1), store_options=store_options
        ) as cluster:
            leader = await cluster.leader()
            await leader.put(b"k", b"v")
            waits += 1
            await until("the leader has noticed", lambda: leader.store.cold)
            paged_in: list[bytes] = []
            going = asyncio.Event()

            async def page_in(keys: Sequence[bytes]) -> None:
                paged_in.extend(keys)
                await going.wait()

            patch(leader.store, "page_in", page_in)
            before = await leader.put(b"new", b"v")
            assert paged_in == [], "nothing is read for a put"
            commands = [envelope.delete(b"k"), envelope.put(b"k", b"w"), envelope.get_and_delete(b"k")]
            proposals = [asyncio.create_task(leader.write(command)) for command in commands]
            await asyncio.sleep(2 * ELECTION_S)
            assert paged_in == [b"k", b"k"]
            assert not any(proposal.done() for proposal in proposals)
            assert leader.replica.is_leader, "ticks went on"
            going.set()
            outcomes = [outcome for (outcome,) in await asyncio.gather(*proposals)]
            assert [outcome.revision for outcome in outcomes] == [before + 1, before + 2, before + 2]
            await asyncio.sleep(20.0)
            assert not leader.store.cold, "nobody has waited for the disk for a while"

    @virtual
    async def test_a_long_queue_to_apply_keeps_neither_ticks_nor_reads_waiting(self, tmp_path: Path) -> None:
        options = replace(OPTIONS, batch_commands_max=1, apply_commands_max=1)
        async with cluster_of(tmp_path, 1, options=options) as cluster:
            leader = await cluster.leader()
            writes = [asyncio.create_task(leader.put(b"%d" % number, b"v")) for number in range(50)]
            while not any(write.done() for write in writes):
                await asyncio.sleep(0)
            assert not writes[-1].done(), "all were applied before anybody else had a turn"
            await asyncio.gather(*writes)

    @virtual
    async def test_what_comes_while_an_entry_is_on_its_round_makes_one_more(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=replace(OPTIONS, gather_s=10.0)) as cluster:
            leader = await cluster.leader()
            before = await leader.put(b"alone", b"v")
            at = leader.replica.applied.index
            writes = []
            for number in range(20):
                writes.append(asyncio.create_task(leader.put(b"%d" % number, b"v")))
                await asyncio.sleep(0.0001)
            revisions = await asyncio.gather(*writes)
            assert sorted(revisions) == list(range(before + 1, before + 21))
            assert leader.replica.applied.index <= at + 4, "most got an entry of their own"

    @virtual
    async def test_nobody_waits_long_for_a_round_that_does_not_end(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            for follower in await cluster.followers():
                cluster.isolate(follower)
            last = leader.replica._raw.last_index
            first = asyncio.create_task(leader.put(b"first", b"v"))
            await asyncio.sleep(OPTIONS.gather_s / 4)
            second = asyncio.create_task(leader.put(b"second", b"v"))
            await asyncio.sleep(OPTIONS.gather_s / 4)
            assert leader.replica._raw.last_index == last + 1, "it did not wait for the round"
            await asyncio.sleep(OPTIONS.gather_s)
            assert leader.replica._raw.last_index == last + 2
            for write in (first, second):
                write.cancel()

    @virtual
    async def test_ticks_are_never_closer_than_an_interval_and_few_are_lost(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            driver, loop = leader.replica._driver, asyncio.get_running_loop()
            ticked: list[float] = []
            tick = driver._raw.tick

            def counted() -> None:
                ticked.append(loop.time())
                tick()

            patch(driver._raw, "tick", counted)
            began = loop.time()
            while loop.time() < began + 1.0:
                driver.inbox.tick()  # as if timers had piled up
                await asyncio.sleep(0.0007)
            gaps = [later - earlier for earlier, later in pairwise(ticked)]
            assert min(gaps) > OPTIONS.tick_s * 0.999
            del ticked[:]
            began = loop.time()
            await asyncio.sleep(1.0)
            assert len(ticked) >= 0.97 / OPTIONS.tick_s, "ticks that came in time were dropped"

    @virtual
    async def test_a_flood_of_messages_is_bounded_and_does_no_harm(self, tmp_path: Path) -> None:
        options = replace(OPTIONS, messages_waiting_max=100)
        async with cluster_of(tmp_path, 3, options=options) as cluster:
            leader = await cluster.leader()
            follower = next(node for node in cluster.nodes if node is not leader)
            term = leader.replica.term
            stale = Message(MessageType.HEARTBEAT_RESPONSE, to=leader.id, from_=follower.id, term=Term(1))
            for _ in range(50):
                leader.replica.step([stale] * 1_000)
                await asyncio.sleep(0.001)
            assert leader.replica._driver.inbox.messages_dropped >= 50 * 900
            await leader.put(b"k", b"v")
            assert leader.replica.term == term

    @virtual
    async def test_an_answer_to_itself_after_it_left_the_membership_is_ignored(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            joiner = await cluster.join(2, auto_promote=False)
            joiner.replica._driver.inbox.complete(
                [Message(MessageType.APPEND_RESPONSE, to=joiner.id, from_=ReplicaId(99), term=joiner.replica.term)]
            )
            await asyncio.sleep(ELECTION_S)
            assert not joiner.watch.done()


class TestPeersCannot:
    @virtual
    async def test_start_a_transfer_that_the_lease_knows_nothing_of(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            follower = (await cluster.followers())[0]
            term = leader.replica.term
            asked: list[Message] = []

            def hold(message: Message) -> bool:
                if message.type is MessageType.TRANSFER_LEADER:
                    asked.append(message)
                return message in asked

            leader.held = hold
            follower.replica._driver.begin_transfer(follower.id)  # as a leader does that was deposed a moment ago
            await asyncio.sleep(ELECTION_S)
            assert not asked
            leader.held = None
            leader.replica.step([Message(MessageType.TRANSFER_LEADER, to=leader.id, from_=follower.id, term=term)])
            await asyncio.sleep(ELECTION_S)
            assert not [event for event in leader.watcher.events if isinstance(event, TransferStarted)]
            assert (leader.replica.is_leader, leader.replica.term) == (True, term)
            assert leader.replica.barrier_free(ReadMode.LINEARIZABLE)

    @virtual
    async def test_propose_past_the_limits_of_the_leader(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await cluster.starts_recorded()
            last = leader.replica._raw.last_index
            entry = Entry(Term(0), Index(0), EntryType.NORMAL, envelope.payload([envelope.group([envelope.put(b"k", b"v")])]))
            peer = (await cluster.followers())[0].id
            leader.replica.step([Message(MessageType.PROPOSE, to=leader.id, from_=peer, entries=(entry,))])
            await asyncio.sleep(ELECTION_S)
            assert leader.replica._raw.last_index == last

    @virtual
    async def test_get_a_vote_from_one_that_has_just_restarted(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            follower, other = await cluster.followers()
            await leader.put(b"k", b"v")
            await cluster.converged()
            await follower.crash()
            await follower.restart()
            request = Message(
                MessageType.VOTE,
                to=follower.id,
                from_=other.id,
                term=Term(leader.replica.term + 1),
                log_term=leader.replica.term,
                index=Index(leader.replica._raw.last_index + 1),
            )
            cluster.isolate(follower)
            loop = asyncio.get_running_loop()
            until_s = loop.time() + (OPTIONS.election_ticks - 1) * OPTIONS.tick_s
            while loop.time() < until_s:
                follower.replica.step([request])
                await asyncio.sleep(OPTIONS.tick_s / 3)
                assert not [event for event in follower.watcher.events if isinstance(event, VoteCast)]
            await asyncio.sleep(3 * OPTIONS.tick_s)
            follower.replica.step([request])
            await until("it votes again", lambda: any(isinstance(event, VoteCast) for event in follower.watcher.events))


class TestFailures:
    @virtual
    async def test_a_failed_save_stops_the_replica_and_everybody_is_answered(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            break_disk(leader, "raft")
            answers = await asyncio.gather(*(outcome_of(leader.put(b"%d" % number, b"v")) for number in range(600)))
            unknown = [answer for answer in answers if isinstance(answer, OutcomeUnknownError)]
            assert all(isinstance(answer, OutcomeUnknownError | ReplicaStoppedError) for answer in answers)
            assert unknown, "what was appended may be on the disk"
            with pytest.raises(StoreFailedError):
                await leader.watch
            with pytest.raises(ReplicaStoppedError, match="stopped itself") as refused:
                await leader.put(b"k", b"v")
            assert refused.value.failed
            with pytest.raises(ReplicaStoppedError):
                await leader.get(b"k")

    @virtual
    async def test_a_failed_flush_stops_an_idle_replica_too(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await leader.put(b"k", b"v")
            break_disk(leader, "state-")
            with pytest.raises(StoreFailedError):
                await asyncio.wait_for(leader.watch, 1.2 + 2 * OPTIONS.tick_s)
            cluster.network.detach(leader.record.peer)
            assert (await cluster.leader(leader)) is not leader

    @pytest.mark.parametrize("where", ["propose_many", "tick", "conf_change_refusal"])
    @virtual
    async def test_a_broken_invariant_stops_the_replica_and_everybody_is_answered(self, tmp_path: Path, where: str) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            learner = await cluster.join(4, auto_promote=False)
            await until("it has caught up", lambda: learner.id in leader.replica.health().caught_up)
            leader.held = lambda message: message.type in (MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE)
            patch(leader.replica._raw, where, breaks)
            work = [
                asyncio.create_task(outcome_of(leader.replica.promote([learner.id], dry_run=False, expect=ANY))),
                *(asyncio.create_task(outcome_of(leader.put(b"%d" % number, b"v"))) for number in range(5)),
                asyncio.create_task(outcome_of(leader.get(b"k", ReadMode.QUORUM))),
            ]
            with pytest.raises(InvariantError):
                await asyncio.wait_for(asyncio.shield(leader.watch), 1.0)
            answers = await asyncio.wait_for(asyncio.gather(*work), 1.0)
            assert all(isinstance(answer, ReplicaError) for answer in answers), answers

    @virtual
    async def test_an_unknown_command_stops_every_replica_alike(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            group = bytearray(envelope.group([envelope.put(b"k", b"v")]))
            group[group.index(envelope.Kind.PUT, 1)] = 250
            with pytest.raises(ReplicaError):
                await asyncio.wait_for(leader.replica.propose(bytes(group), 1, grows=True), 5.0)
            await until("all have stopped", lambda: all(node.watch.done() for node in cluster.nodes))

    @virtual
    async def test_a_leader_whose_disk_hangs_gives_up_and_answers_everybody(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await leader.put(b"before", b"v")
            going = stall(leader, "raft")
            asked = asyncio.get_running_loop().time()
            first = asyncio.create_task(outcome_of(leader.put(b"first", b"v")))
            await asyncio.sleep(OPTIONS.tick_s)
            rest = [asyncio.create_task(outcome_of(leader.put(b"%d" % number, b"v"))) for number in range(3)]
            successor = await cluster.leader(leader)
            assert asyncio.get_running_loop().time() - asked < 4 * ELECTION_S
            answers = await asyncio.wait_for(asyncio.gather(first, *rest), 1.0)
            assert not leader.replica.is_leader
            assert [event for event in leader.watcher.events if isinstance(event, TransferStarted)], "nobody waited for a timeout"
            assert isinstance(answers[0], OutcomeUnknownError), "the others have it, but it was not durable here"
            assert all(isinstance(answer, NotLeaderError | ReplicaBusyError) for answer in answers[1:])
            await successor.put(b"after", b"v")
            going.set()
            await cluster.converged()
            assert leader.peek(b"first") == b"v"
            assert leader.peek(b"0") is None, "it was told that nothing was done"

    @virtual
    async def test_a_leader_whose_flush_does_not_keep_up_hands_over(self, tmp_path: Path) -> None:
        store_options = replace(STORE_OPTIONS, segment_bytes_max=200, unflushed_bytes_max=400)
        async with cluster_of(tmp_path, 3, store_options=store_options) as cluster:
            leader = await cluster.leader()
            await leader.put(b"before", b"v")
            going = stall(leader, "state-")
            asked = asyncio.get_running_loop().time()
            while not leader.store.congested:
                await outcome_of(leader.put(b"k", b"v" * 100))
            successor = await cluster.leader(leader)
            assert asyncio.get_running_loop().time() - asked < 4 * ELECTION_S
            assert [event.name for event in leader.events.since(0) if event.name.endswith("-stalled")] == ["flush-stalled"]
            await successor.put(b"after", b"v")
            going.set()
            await cluster.converged()
            assert leader.peek(b"after") == b"v"

    @virtual
    async def test_alone_with_a_disk_that_hangs_proposals_are_answered(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            going = stall(leader, "raft")
            first = asyncio.create_task(outcome_of(leader.put(b"first", b"v")))
            await asyncio.sleep(OPTIONS.tick_s)
            second = asyncio.create_task(outcome_of(leader.put(b"second", b"v")))
            answers = await asyncio.wait_for(asyncio.gather(first, second), 5 * ELECTION_S)
            assert not leader.replica.barrier_free(ReadMode.LINEARIZABLE)
            assert isinstance(answers[0], OutcomeUnknownError)
            assert isinstance(answers[1], NotLeaderError | ReplicaBusyError)
            going.set()
            leader = await cluster.leader()
            assert leader.peek(b"first") == b"v"
            assert leader.peek(b"second") is None

    @virtual
    async def test_a_hanging_disk_is_told_of_once_and_leadership_is_offered_once(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            for node in await cluster.followers():
                node.held = lambda message: message.type is MessageType.TIMEOUT_NOW  # nobody takes over
            going = stall(leader, "raft")
            write = asyncio.create_task(outcome_of(leader.put(b"k", b"v")))
            await asyncio.sleep(1.8 * ELECTION_S)
            assert leader.replica.is_leader
            assert [event.name for event in leader.events.since(0) if event.name.endswith("-stalled")] == ["save-stalled"]
            assert len([event for event in leader.watcher.events if isinstance(event, TransferStarted)]) == 1
            await asyncio.sleep(0.4 * ELECTION_S)
            assert not leader.replica.is_leader, "after two timeouts it leads no more, whoever follows"
            going.set()
            await write

    @virtual
    async def test_a_read_that_nobody_confirms_ends_though_the_leader_goes_on(self, tmp_path: Path) -> None:
        """Writes are acknowledged, so it stays; only the answers to its heartbeats are lost."""
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            leader.held = lambda message: message.type is MessageType.HEARTBEAT_RESPONSE
            began = asyncio.get_running_loop().time()
            reading = asyncio.create_task(outcome_of(leader.get(b"k", ReadMode.QUORUM)))
            while not reading.done() and asyncio.get_running_loop().time() < began + 10 * ELECTION_S:
                await leader.put(b"k", b"v")
                await asyncio.sleep(OPTIONS.tick_s)
            assert isinstance(reading.result(), ReadTimeoutError)
            assert leader.replica.is_leader
            assert ELECTION_S < asyncio.get_running_loop().time() - began < 4 * ELECTION_S

    @virtual
    async def test_a_read_in_a_round_ends_with_the_leadership(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            leader.held = lambda message: message.type is MessageType.HEARTBEAT_RESPONSE
            reading = asyncio.create_task(outcome_of(leader.get(b"k", ReadMode.QUORUM)))
            await asyncio.sleep(OPTIONS.tick_s)
            began = asyncio.get_running_loop().time()
            leader.replica.call(lambda raw: raw.step_down("the test says so"))
            assert isinstance(await reading, NotLeaderError)
            assert asyncio.get_running_loop().time() - began < OPTIONS.tick_s, "it waited for its time to end"

    @virtual
    async def test_an_heir_is_a_live_voter_that_has_the_most_of_the_log(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 4) as cluster:
            leader = await cluster.leader()
            behind, *others = await cluster.followers()
            behind.held = lambda message: message.type is MessageType.APPEND
            await leader.put(b"k", b"v")
            matches = {peer: progress.match for peer, progress in leader.replica._raw.status().progress.items()}
            await until(
                "the others have it",
                lambda: all(leader.replica._raw.status().progress[node.id].match > matches[behind.id] for node in others),
            )
            assert leader.replica.best_heir() == min(node.id for node in others)
            assert leader.replica.best_heir([node.id for node in others]) == behind.id, "better than nobody"
            assert leader.replica.best_heir([node.id for node in cluster.nodes]) is None

    @virtual
    async def test_what_waits_is_packed_within_both_bounds_of_an_entry(self, tmp_path: Path) -> None:
        options = replace(OPTIONS, batch_commands_max=5, batch_bytes_max=1_000)
        async with cluster_of(tmp_path, 1, options=options) as cluster:
            leader = await cluster.leader()
            first = leader.store.last_index()
            sizes = [400, 400, 400, 3_000, 10, 10, 10, 10, 10, 10]
            writes = [asyncio.create_task(leader.put(b"k", bytes(size))) for size in sizes]
            await asyncio.gather(*writes)
            entries = leader.store.entries(Index(first + 1), Index(leader.store.last_index() + 1), 1 << 20)
            packed = [
                [command for _, group in envelope.decode(entry.data) for command in group] for entry in entries if entry.data
            ]
            assert sum(map(len, packed)) == len(sizes)
            assert all(len(commands) <= 5 for commands in packed)
            assert all(sum(len(body) for _, _, body in commands) <= 1_000 or len(commands) == 1 for commands in packed)
            assert len(packed) < len(sizes)

    @virtual
    async def test_a_stop_with_a_hanging_disk_ends_in_time(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            leader = await cluster.leader()
            going = stall(leader, "raft")
            write = asyncio.create_task(outcome_of(leader.put(b"k", b"v")))
            await asyncio.sleep(OPTIONS.tick_s)
            began = asyncio.get_running_loop().time()
            await leader.replica.stop()
            assert asyncio.get_running_loop().time() - began < 4.0
            assert isinstance(await write, OutcomeUnknownError)
            going.set()


class TestInstall:
    """A snapshot that comes while committed entries still wait to be applied."""

    LEADER, LEARNED, TERM = ReplicaId(1), ReplicaId(5), Term(2)

    async def follower(self, cluster: Cluster) -> Node:
        """One that hears nobody but the test, with 40 entries and then a membership change, all of them durable."""
        await cluster.leader()
        follower = cluster.nodes[2]
        for other in cluster.nodes[:2]:
            await other.crash()
        kind, change = encode_conf_change(
            ConfChangeV2((SingleChange(ChangeType.ADD_LEARNER, ReplicaId(4)),), context=members.encode_context([record(4)]))
        )
        last = follower.replica._raw.last_index
        self.term = Term(follower.replica.term + 5)
        put = envelope.payload([envelope.group([envelope.put(b"k", b"v")])])
        entries = [Entry(self.term, Index(last + 1 + number), EntryType.NORMAL, put) for number in range(40)]
        entries.append(Entry(self.term, Index(entries[-1].index + 1), kind, change))
        self.change_at = entries[-1].index
        append = self.message(
            MessageType.APPEND, follower, log_term=follower.replica._raw._raft.log.last_term, index=last, entries=tuple(entries)
        )
        follower.replica.step([append])
        await until("it is durable", lambda: follower.store.last_index() == self.change_at)
        return follower

    def message(self, kind: MessageType, to: Node, **fields: Any) -> Message:
        return Message(kind, to=to.id, from_=self.LEADER, term=self.term, **fields)

    async def stage(self, node: Node, snapshot: Snapshot) -> None:
        """Have the node hold a verified file of this snapshot."""
        source = await open_memory_store(node.path.parent / "source", STORE_OPTIONS)
        identity = Identity(source.identity.server_id, CLUSTER_ID, "test", ReplicaId(9), "source")
        await source.bootstrap(
            identity,
            snapshot,
            HardState(snapshot.term, ReplicaId(0), snapshot.index),
            lambda txn: members.bootstrap_state(
                txn, cluster_name="test", member=record(1), conf_state=snapshot.conf_state, config_index=snapshot.index
            ),
        )
        file = await source.build_snapshot()
        staged = await node.store.receive(file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))
        await staged.write(0, file.path.read_bytes())
        await staged.finish()
        await source.close()

    @virtual
    async def test_what_waits_is_answered_and_not_carried_out(self, tmp_path: Path) -> None:
        async with cluster_of(tmp_path, 3, options=replace(OPTIONS, apply_commands_max=1)) as cluster:
            follower = await self.follower(cluster)
            replica = follower.replica
            snapshot = Snapshot(
                Index(self.change_at + 20), self.term, ConfState(voters=replica.conf_state.voters, learners=(self.LEARNED,))
            )
            await self.stage(follower, snapshot)
            replica.step([self.message(MessageType.HEARTBEAT, follower, commit=self.change_at)])
            before = replica.applied.index
            while replica.applied.index < before + 3:
                await asyncio.sleep(0)
            assert replica.applied.index < self.change_at - 5
            going = stall(follower, "raft")
            replica.step([self.message(MessageType.SNAPSHOT, follower, snapshot=snapshot)])
            for _ in range(100):
                await asyncio.sleep(0)
                known = replica.conf_state.learners
                assert known == (), f"at {replica.applied.index} it knows learners {known}, of index {snapshot.index}"
            going.set()
            await until("it is installed", lambda: replica.applied == snapshot.id)
            assert replica.conf_state == snapshot.conf_state
            after = Entry(self.term, Index(snapshot.index + 1), EntryType.NORMAL, b"")
            replica.step(
                [
                    self.message(
                        MessageType.APPEND,
                        follower,
                        log_term=snapshot.term,
                        index=snapshot.index,
                        entries=(after,),
                        commit=after.index,
                    )
                ]
            )
            await until("it goes on behind it", lambda: replica.applied == after.id)
            assert not follower.watch.done()
