"""The way in and out: Ready, its order, restarts, both modes of storage. Property numbers in docstrings."""

from __future__ import annotations

import pytest

from ravel_node.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ConfChangeV2,
    EntryType,
    HardState,
    Index,
    InvariantError,
    LocalMessageError,
    Message,
    MessageType,
    PeerNotFoundError,
    Ready,
    ReplicaId,
    Role,
    SafetyEvent,
    Snapshot,
    SoftState,
    SteppedDown,
    Term,
    decode_conf_change,
    entry_size,
)
from ravel_node.raft.raw_node import ANSWER_TYPES, LOCAL_TYPES
from tests.raft.support import ONE, TWO, acknowledge, conf, elected, entries, entry, message, replica, settled_leader

APPEND = MessageType.APPEND


def follow(one: object, *new: int, first: int = 1, log_term: int = 0, commit: int = 0, term: int = 1) -> Message:
    """An append from replica 2."""
    return message(
        APPEND,
        from_=TWO,
        term=Term(term),
        index=Index(first - 1),
        log_term=Term(log_term),
        entries=tuple(entries(*new, first=first)),
        commit=Index(commit),
    )


class TestReady:
    def test_nothing_to_do_is_nothing(self) -> None:
        """Property 74."""
        one = replica()
        assert not one.raw.has_ready()
        assert one.raw.ready() == Ready()

    def test_the_first_steps_of_a_replica_alone(self) -> None:
        """Properties 74 and 75: what stands in each Ready, from the start to the first commit."""
        one = replica(1, (1,))
        one.raw.campaign()
        one.work()
        told = [(ready.soft_state, ready.hard_state, len(ready.entries), ready.must_sync) for ready in one.readies]
        assert told == [
            (SoftState(ReplicaId(0), Role.CANDIDATE), HardState(Term(1), ONE, Index(0)), 0, True),
            (SoftState(ONE, Role.LEADER), None, 1, True),
            (None, HardState(Term(1), ONE, Index(1)), 0, False),
        ]
        assert [len(ready.committed_entries) for ready in one.readies] == [0, 0, 1]
        assert not one.raw.has_ready()

    def test_one_at_a_time(self) -> None:
        """Property 74: taking a second one before the first is advanced is a mistake of the driver."""
        one = replica()
        one.raw.campaign()
        one.raw.ready()
        with pytest.raises(InvariantError):
            one.raw.ready()
        one.raw.advance()
        one.raw.ready()

    def test_advance_is_for_synchronous_mode(self) -> None:
        one = replica(async_storage_writes=True)
        with pytest.raises(InvariantError):
            one.raw.advance()

    def test_what_was_handed_out_stays(self) -> None:
        """A Ready is the driver's: later appends, truncations and messages do not reach into it."""
        one = replica()
        one.step(follow(one, 1, 1))
        ready = one.raw.ready()
        kept = (list(ready.entries), list(ready.messages))
        one.raw.advance()
        one.step(follow(one, 2, first=1, term=2))
        one.raw.ready()
        assert (list(ready.entries), list(ready.messages)) == kept

    def test_events_alone_are_no_work(self) -> None:
        """A driver that asks has_ready() would not see them: it fetches them."""
        one = settled_leader()
        one.raw.take_events()
        one.step(message(MessageType.HEARTBEAT, from_=TWO, term=Term(1)))
        assert not one.raw.has_ready()
        assert [type(event) for event in one.raw.take_events()] == [SafetyEvent]
        assert one.raw.take_events() == []

    @pytest.mark.parametrize(
        ("sent", "must_sync"),
        [
            (message(MessageType.VOTE, from_=TWO, term=Term(1)), True),
            (message(MessageType.HEARTBEAT, from_=TWO, term=Term(0), commit=Index(1)), False),
        ],
    )
    def test_must_sync_for_term_and_vote(self, sent: Message, must_sync: bool) -> None:
        """Property 75."""
        one = replica()
        one.step(sent)
        assert one.raw.ready().must_sync is must_sync

    def test_a_vote_in_a_known_term_must_reach_the_disk(self) -> None:
        """Property 75."""
        one = replica(hard_state=HardState(Term(3)))
        one.step(message(MessageType.VOTE, from_=TWO, term=Term(3)))
        ready = one.raw.ready()
        assert (ready.hard_state, ready.must_sync) == (HardState(Term(3), TWO), True)

    def test_a_commit_alone_need_not_reach_the_disk(self) -> None:
        """Property 75."""
        one = replica()
        one.step(follow(one, 1))
        one.work()
        one.step(message(MessageType.HEARTBEAT, from_=TWO, term=Term(1), commit=Index(1)))
        ready = one.raw.ready()
        assert (ready.hard_state, ready.must_sync) == (HardState(Term(1), commit=Index(1)), False)

    def test_committed_entries_come_in_pages(self) -> None:
        """Property 78."""
        size = entry_size(entry(1, 1, b"1/1"))
        one = replica(committed_bytes_max=2 * size)
        one.step(follow(one, *[1] * 5, commit=5))
        one.work()
        assert [len(ready.committed_entries) for ready in one.readies] == [2, 2, 1]
        assert one.machine.applied == 5


class TestStep:
    @pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
    def test_local_messages_do_not_come_from_peers(self, kind: MessageType) -> None:
        """Property 79."""
        one = settled_leader()
        before = one.status
        with pytest.raises(LocalMessageError):
            one.raw.step(message(kind, from_=TWO, term=Term(1)))
        assert one.status == before

    @pytest.mark.parametrize("kind", sorted(ANSWER_TYPES))
    def test_strangers_were_not_asked(self, kind: MessageType) -> None:
        """Property 63."""
        with pytest.raises(PeerNotFoundError):
            settled_leader().raw.step(message(kind, from_=ReplicaId(9), term=Term(1)))

    def test_nobody_sends_nothing(self) -> None:
        one = replica()
        one.raw.step(message(MessageType.VOTE, term=Term(1)))
        assert [type(event) for event in one.raw.take_events()] == [SafetyEvent]
        assert one.raw.term == 0


class TestRestart:
    def test_state_and_log_are_taken_over(self) -> None:
        """Property 76."""
        one = replica(log=entries(1, 1, 2), hard_state=HardState(Term(3), TWO, Index(2)))
        status = one.status
        assert (status.term, status.vote, status.commit, status.last_index, status.role) == (3, 2, 2, 3, Role.FOLLOWER)
        one.work()
        assert [found.index for found in one.applied] == [1, 2]

    @pytest.mark.parametrize("limit", [1, 30, 1 << 20])
    def test_what_is_applied_is_not_applied_again(self, limit: int) -> None:
        """Property 76: none twice, none skipped, whatever the pages."""
        one = replica(
            log=entries(*[1] * 6),
            hard_state=HardState(Term(1), commit=Index(5)),
            applied=2,
            committed_bytes_max=limit,
        )
        one.work()
        assert [found.index for found in one.applied] == [3, 4, 5]

    def test_from_a_snapshot(self) -> None:
        """Property 76."""
        one = settled_leader()
        one.raw.propose_many([b"a", b"b", b"c"])
        acknowledge(one, 2)
        one.snapshot_and_compact(Index(3))
        one.crash()
        assert (one.raw.commit, one.raw.applied, one.status.first_index, one.raw.last_index) == (4, 4, 4, 4)
        one.work()
        assert [found.index for found in one.applied] == [1, 2, 3, 4]

    def test_commit_is_never_below_what_is_applied(self) -> None:
        """The commit index need not reach the disk before the machine does."""
        one = replica(log=entries(1, 1), hard_state=HardState(Term(1)), applied=2)
        assert one.raw.commit == 2

    @pytest.mark.parametrize(
        "broken",
        [
            {"hard_state": HardState(Term(1), commit=Index(9))},
            {"applied": 9},
            {"voters": (1,), "learners": (1,)},
        ],
    )
    def test_a_storage_that_cannot_be_stops_the_replica(self, broken: dict[str, object]) -> None:
        """Property 80."""
        with pytest.raises(InvariantError):
            replica(log=entries(1, 1), **broken)  # type: ignore[arg-type]

    def test_a_log_that_lacks_what_is_not_applied_stops_the_replica(self) -> None:
        """Property 80: entries between the machine and the log's start are gone; to go on would be to skip them."""
        one = replica(log=entries(1, 1, 1), hard_state=HardState(Term(1), commit=Index(3)))
        one.work()
        one.snapshot_and_compact(Index(3))
        one.machine._flushed = (Index(1), b"", conf(1))
        with pytest.raises(InvariantError):
            one.crash()


class TestAsynchronous:
    def test_the_whole_order_stands_in_messages(self) -> None:
        """Property 77."""
        one = elected(1, (1,), async_storage_writes=True)
        one.raw.propose(b"x")
        ready = one.raw.ready()
        (save,) = ready.messages
        assert (save.type, save.to, save.entries) == (MessageType.STORAGE_APPEND, LOCAL_APPEND, tuple(ready.entries))
        assert [answer.type for answer in save.responses] == [
            MessageType.APPEND_RESPONSE,
            MessageType.STORAGE_APPEND_RESPONSE,
        ]
        one.carry_out(ready)
        one.save()
        (save, apply) = one.raw.ready().messages
        assert (save.commit, apply.type, apply.to) == (2, MessageType.STORAGE_APPLY, LOCAL_APPLY)
        assert [found.data for found in apply.entries] == [b"x"]

    def test_nothing_is_applied_before_it_is_saved_here(self) -> None:
        """Property 77."""
        one = replica(async_storage_writes=True)
        one.step(follow(one, 1, 1, commit=2))
        one.work()
        assert (one.raw.commit, len(one.applies)) == (2, 0)
        one.save()
        one.work()
        assert len(one.applies) == 1

    def test_saves_may_be_in_flight_together(self) -> None:
        one = settled_leader(async_storage_writes=True)
        for data in (b"a", b"b", b"c"):
            one.raw.propose(data)
            one.work()
        assert len(one.saves) == 3
        one.settle()
        assert one.raft.log.unstable.entries == []

    def test_an_answer_of_an_older_term_frees_nothing(self) -> None:
        """Property 77: the entries at the writer were replaced, and put back, since."""
        one = replica(async_storage_writes=True)
        one.step(follow(one, 1, 1))
        one.work()
        one.step(follow(one, 2, first=1, term=2))
        one.step(follow(one, 1, 1, term=3))  # another leader restores the first entries
        one.save()
        assert len(one.raft.log.unstable.entries) == 2
        one.settle()
        assert one.raft.log.unstable.entries == [], "and in the end everything is freed"
        assert [found.term for found in one.log] == [1, 1]

    def test_a_vote_waits_for_the_disk(self) -> None:
        """Property 77."""
        one = replica(async_storage_writes=True)
        one.step(message(MessageType.VOTE, from_=TWO, term=Term(1)))
        assert one.work() == []
        one.save()
        assert [answer.type for answer in one.work()] == [MessageType.VOTE_RESPONSE]

    def test_what_needs_no_disk_goes_at_once(self) -> None:
        one = replica(async_storage_writes=True)
        one.step(message(MessageType.HEARTBEAT, from_=TWO, term=Term(1)))
        assert [answer.type for answer in one.work()] == [MessageType.HEARTBEAT_RESPONSE]

    def test_a_snapshot_and_the_entries_after_it_go_in_one_save(self) -> None:
        one = replica(async_storage_writes=True)
        snapshot = Snapshot(Index(5), Term(1), conf(1, 2, 3))
        one.step(message(MessageType.SNAPSHOT, from_=TWO, term=Term(1), snapshot=snapshot))
        one.step(follow(one, 1, 1, first=6, log_term=1, commit=7))
        one.work()
        (save,) = one.saves
        assert (save.snapshot, [found.index for found in save.entries]) == (snapshot, [6, 7])
        assert not one.applies, "property 55"
        one.settle()
        assert (one.machine.applied, one.storage.first_index(), one.storage.last_index()) == (7, 6, 7)


class TestConvenience:
    def test_cheap_properties_agree_with_the_status(self) -> None:
        one = settled_leader()
        raw, status = one.raw, one.status
        assert (raw.id, raw.role, raw.term, raw.leader) == (status.id, status.role, status.term, status.leader)
        assert (raw.commit, raw.applied, raw.last_index) == (status.commit, status.applied, status.last_index)
        assert (raw.is_leader, raw.in_transfer, raw.committed_in_term) == (True, False, True)
        assert set(status.progress) == {1, 2, 3}
        assert replica().status.progress == {}

    def test_a_driver_may_end_leadership(self) -> None:
        """In the same term, with the vote that was given: nothing is promised twice."""
        one = settled_leader()
        one.raw.step_down("the disk hangs")
        one.settle()
        status = one.status
        assert (status.role, status.term, status.vote, status.leader) == (Role.FOLLOWER, 1, ONE, 0)
        assert any(isinstance(event, SteppedDown) for event in one.events)
        one.raw.step_down("again")
        assert one.raw.take_events() == []

    def test_a_conf_change_has_a_name(self) -> None:
        one = settled_leader()
        name = one.raw.propose_conf_change(ConfChangeV2())
        assert name == (1, 2)
        with pytest.raises(Exception, match="no membership change"):
            decode_conf_change(one.log[-1])
        assert one.log[-1].type is EntryType.NORMAL
