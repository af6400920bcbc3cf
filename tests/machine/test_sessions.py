"""A write of a registered client happens once, whatever comes again, and what is kept for that is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine import envelope, kv, sessions
from ravel_node.machine.base import Database, Outcome, Status
from ravel_node.machine.envelope import Once
from ravel_node.machine.limits import GROUP_COMMANDS_MAX, RESULT_BYTES_MAX, RESULTS_MAX, SESSIONS_MAX
from tests.machine.helpers import Cluster
from tests.machine.memory_txn import MemoryState

PUT = envelope.put(b"k", b"v")


def statuses(outcomes: Sequence[Outcome]) -> list[Status]:
    return [outcome.status for outcome in outcomes]


def puts(count: int) -> list[bytes]:
    return [PUT] * count


def test_a_client_id_is_its_place_in_the_log() -> None:
    cluster = Cluster()
    outcomes = cluster.apply(envelope.group([PUT, envelope.register_session()]), envelope.group([envelope.register_session()]))
    assert [outcome.revision for outcome in outcomes] == [1, 2 << 16 | 1, 2 << 16 | 2]
    assert cluster.machine.session_count == 2


def test_a_retry_is_answered_and_not_run() -> None:
    cluster = Cluster()
    client = cluster.register()
    some = [
        PUT,
        envelope.compare_and_swap(b"k", 99, b"x"),
        envelope.get_and_delete(b"k"),
        envelope.delete(b"k"),
        envelope.put(b"", b""),
    ]
    first = cluster.run(*some, once=Once(client, 1, 1))
    assert statuses(first) == [Status.OK, Status.CONDITION_FAILED, Status.OK, Status.OK, Status.REFUSED]
    assert first[1].value == first[2].value == b"v"
    data = cluster.rows(Database.KV)
    assert cluster.run(*some, once=Once(client, 1, 1)) == first
    cluster.reopen()
    assert cluster.run(*some, once=Once(client, 1, 1)) == first
    assert cluster.rows(Database.KV) == data
    assert cluster.machine.revision == 2


def test_a_retry_in_the_same_entry_is_answered_and_not_run() -> None:
    cluster = Cluster()
    group = envelope.group(puts(3), Once(cluster.register(), 1, 1))
    outcomes = cluster.apply(group, group)
    assert outcomes[:3] == outcomes[3:]
    assert cluster.machine.revision == 3


def test_a_retry_may_be_grouped_in_another_way() -> None:
    cluster = Cluster()
    client = cluster.register()
    first = cluster.run(*puts(3), once=Once(client, 1, 1)) + cluster.run(*puts(3), once=Once(client, 6, 1))
    again = cluster.run(*puts(9), once=Once(client, 1, 1))
    assert again[:3] + again[5:8] == first
    assert [outcome.revision for outcome in again[3:5] + again[8:]] == [7, 8, 9]
    assert [cluster.run(PUT, once=Once(client, sequence, 1))[0] for sequence in range(1, 10)] == again
    assert cluster.machine.revision == 9


def test_sequences_may_come_in_any_order_and_with_gaps() -> None:
    cluster = Cluster()
    client = cluster.register()
    assert cluster.run(PUT, once=Once(client, 7, 1))[0].revision == 1
    assert cluster.run(PUT, once=Once(client, 3, 1))[0].revision == 2
    assert [outcome.revision for outcome in cluster.run(*puts(3), once=Once(client, 4, 1), offsets=[0, 2, 9])] == [3, 4, 5]
    again = {sequence: cluster.run(PUT, once=Once(client, sequence, 1))[0].revision for sequence in (3, 4, 6, 7, 13)}
    assert again == {3: 2, 4: 3, 6: 4, 7: 1, 13: 5}


def test_what_is_acknowledged_is_forgotten_and_never_run_again() -> None:
    cluster = Cluster()
    client = cluster.register()
    cluster.run(*puts(3), once=Once(client, 1, 1))
    cluster.run(*puts(3), once=Once(client, 4, 1))
    assert len(cluster.rows(Database.RESULTS)) == 2
    cluster.run(PUT, once=Once(client, 7, 6))  # the second group's record still holds sequence 6
    assert len(cluster.rows(Database.RESULTS)) == 2
    assert statuses(cluster.run(*puts(4), once=Once(client, 3, 1))) == [Status.RESULT_FORGOTTEN] * 3 + [Status.OK]
    cluster.run(PUT, once=Once(client, 8, 8))
    assert len(cluster.rows(Database.RESULTS)) == 1
    cluster.reopen()
    assert statuses(cluster.run(*puts(2), once=Once(client, 7, 2))) == [Status.RESULT_FORGOTTEN, Status.OK]
    assert cluster.machine.revision == 8


def test_an_acknowledgement_never_moves_back() -> None:
    cluster = Cluster()
    client = cluster.register()
    cluster.run(PUT, once=Once(client, 5, 5))
    assert statuses(cluster.run(PUT, once=Once(client, 4, 1))) == [Status.RESULT_FORGOTTEN]


@pytest.mark.parametrize("once_", [False, True])
def test_an_unknown_session_runs_nothing(once_: bool) -> None:
    cluster = Cluster()
    client = cluster.register() if once_ else 0
    before = cluster.content()
    assert statuses(cluster.run(*puts(2), once=Once(client + 1, 1, 1))) == [Status.SESSION_EXPIRED] * 2
    assert cluster.content() == before


@pytest.mark.parametrize(
    ("once", "offsets", "why"),
    [
        (Once(0, 0, 0), None, "start at 1"),
        (Once(0, (1 << 64) - 1, 1), None, "64 bits"),
        (Once(0, 5, 6), None, "acknowledged below 6"),
        (Once(0, 5, 1), [1, 1], "must ascend"),
        (Once(0, 5, 1), [2, 1], "must ascend"),
        (Once(0, 5, 1), [0, 2, 1, 3], "must ascend"),
    ],
)
def test_a_group_that_no_client_sends_is_refused(once: Once, offsets: list[int] | None, why: str) -> None:
    cluster = Cluster()
    client = cluster.register()
    before = cluster.content()
    outcomes = cluster.run(*puts(len(offsets or (0, 0))), once=once._replace(client_id=client), offsets=offsets)
    assert set(statuses(outcomes)) == {Status.REFUSED}
    assert why in outcomes[0].value.decode()
    assert cluster.content() == before


def test_a_session_is_not_registered_within_a_session() -> None:
    cluster = Cluster()
    client = cluster.register()
    outcomes = cluster.run(envelope.register_session(), PUT, once=Once(client, 1, 1))
    assert statuses(outcomes) == [Status.REFUSED, Status.OK]
    assert cluster.machine.session_count == 1


def test_a_client_may_have_so_many_answers_waiting_and_not_more() -> None:
    cluster = Cluster()
    client = cluster.register()
    assert set(statuses(cluster.run(*puts(RESULTS_MAX - 1), once=Once(client, 1, 1)))) == {Status.OK}
    outcomes = cluster.run(*puts(3), once=Once(client, RESULTS_MAX - 1, 1))
    assert statuses(outcomes) == [Status.OK, Status.REFUSED, Status.REFUSED]  # the first is a retry: it is answered
    assert "1023 writes" in outcomes[1].value.decode()
    assert cluster.machine.revision == RESULTS_MAX - 1
    assert statuses(cluster.run(PUT, once=Once(client, RESULTS_MAX, 1))) == [Status.OK]
    cluster.reopen()
    assert statuses(cluster.run(PUT, once=Once(client, RESULTS_MAX + 1, 1))) == [Status.REFUSED]
    assert statuses(cluster.run(PUT, once=Once(client, RESULTS_MAX + 1, 2))) == [Status.OK]
    assert statuses(cluster.run(*puts(GROUP_COMMANDS_MAX + 1), once=Once(client, 2_000, 2_000))) == [Status.REFUSED] * 1_025


@pytest.mark.parametrize("restart", [False, True])
def test_acknowledged_answers_make_room_for_as_many_again(restart: bool) -> None:
    """Whole runs and parts of one: the bound is reached, room is made, and it is reached again at the same count."""
    cluster = Cluster()
    client = cluster.register()
    half = RESULTS_MAX // 2
    first = 1
    assert set(statuses(cluster.run(*puts(half), once=Once(client, first, 1)))) == {Status.OK}
    assert set(statuses(cluster.run(*puts(half), once=Once(client, first + half, 1)))) == {Status.OK}
    for acknowledged in (half, half // 2, RESULTS_MAX - 1, RESULTS_MAX):
        following = first + RESULTS_MAX
        assert statuses(cluster.run(PUT, once=Once(client, following, first))) == [Status.REFUSED], "it is full"
        first += acknowledged
        if restart:
            cluster.reopen()
        outcomes = cluster.run(*puts(acknowledged), once=Once(client, following, first))
        assert set(statuses(outcomes)) == {Status.OK}, f"{acknowledged} were acknowledged"


def test_kept_values_are_bounded() -> None:
    """A write whose answer is too large to keep is done once all the same, and says so when it comes again."""
    cluster = Cluster()
    client = cluster.register()
    size = RESULT_BYTES_MAX // 4
    cluster.run(envelope.put(b"k", b"v" * size))
    swap = envelope.compare_and_swap(b"k", 99, b"x")
    first = cluster.run(*[swap] * 3, once=Once(client, 1, 1)) + cluster.run(*[swap] * 3, once=Once(client, 4, 1))
    assert {(outcome.status, len(outcome.value)) for outcome in first} == {(Status.CONDITION_FAILED, size)}
    cluster.reopen()
    again = cluster.run(*[swap] * 6, once=Once(client, 1, 1))
    assert again[:3] == first[:3]
    assert statuses(again[3:]) == [Status.RESULT_FORGOTTEN] * 3
    assert sum(map(len, cluster.rows(Database.RESULTS).values())) < RESULT_BYTES_MAX + 1_000
    assert statuses(cluster.run(swap, once=Once(client, 7, 4))) == [Status.CONDITION_FAILED]  # the acknowledged ones make room
    assert len(cluster.run(swap, once=Once(client, 7, 4))[0].value) == size


def test_kept_values_of_one_group_are_bounded() -> None:
    cluster = Cluster()
    once = Once(cluster.register(), 1, 1)
    cluster.run(envelope.put(b"k", b"v" * (RESULT_BYTES_MAX // 4)))
    some = [envelope.compare_and_swap(b"k", 99, b"x")] * 5
    assert statuses(cluster.run(*some, once=once)) == [Status.CONDITION_FAILED] * 5
    assert statuses(cluster.run(*some, once=once)) == [Status.CONDITION_FAILED] * 4 + [Status.RESULT_FORGOTTEN]


class Clients:
    """Sessions of a small bound, without a machine."""

    def __init__(self, sessions_max: int) -> None:
        self.state = MemoryState()
        self.sessions_max = sessions_max
        self.reopen()
        self.index = 0

    def reopen(self) -> None:
        self.sessions = sessions.Sessions(self.sessions_max)
        self.sessions.open(self.state)

    def register(self) -> int:
        self.index += 1
        stamp = self.index << 16
        assert self.sessions.register(stamp, stamp, self.state)
        self.sessions.write(self.state)
        return stamp

    def use(self, client: int, sequence: int = 1) -> Status:
        """One put; the status of its answer."""
        self.index += 1
        ((once, some),) = envelope.decode(envelope.payload([envelope.group([PUT], Once(client, sequence, 1))]))
        assert once is not None
        admission = self.sessions.admit(once, some, self.index << 16, self.state)
        fresh = [Outcome(Status.OK, self.index) for _ in admission.commands]
        (outcome,) = self.sessions.settle(admission, fresh, len(fresh), self.state)
        self.sessions.write(self.state)
        return outcome.status


@pytest.mark.parametrize("restart", [False, True])
def test_the_least_recently_used_session_goes_first(restart: bool) -> None:
    clients = Clients(3)
    a, b, c = (clients.register() for _ in range(3))
    for client in (a, b, c, a):
        clients.use(client)
    if restart:
        clients.reopen()
    d = clients.register()  # b was used least recently
    assert clients.use(b) is Status.SESSION_EXPIRED
    assert set(clients.state.databases[Database.SESSIONS]) == {client.to_bytes(8, "big") for client in (a, c, d)}
    assert {key[:8] for key in clients.state.databases[Database.RESULTS]} == {client.to_bytes(8, "big") for client in (a, c)}
    clients.use(c, 2)
    clients.register()
    assert [clients.use(client, 3) for client in (a, c, d)] == [Status.SESSION_EXPIRED, Status.OK, Status.OK]


def test_a_retry_counts_as_use() -> None:
    clients = Clients(2)
    a, b = clients.register(), clients.register()
    clients.use(a)
    clients.use(b)
    clients.use(a)  # answered from what is stored
    clients.register()
    assert clients.use(a) is Status.OK
    assert clients.use(b) is Status.SESSION_EXPIRED


def test_a_session_that_is_used_and_ended_in_one_entry_leaves_nothing() -> None:
    clients = Clients(2)
    a = clients.register()
    ((once, some),) = envelope.decode(envelope.payload([envelope.group([PUT], Once(a, 1, 1))]))
    assert once is not None
    admission = clients.sessions.admit(once, some, 9 << 16, clients.state)
    clients.sessions.settle(admission, [Outcome(Status.OK, 1)], 1, clients.state)
    for place in (1, 2):
        clients.sessions.register(9 << 16 | place, 9 << 16 | place, clients.state)
    clients.sessions.write(clients.state)
    assert set(clients.state.databases[Database.SESSIONS]) == {(9 << 16 | place).to_bytes(8, "big") for place in (1, 2)}
    assert not clients.state.databases[Database.RESULTS]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=40))
def test_eviction_is_the_same_with_restarts(script: list[tuple[int, int, bool]]) -> None:
    """Each step uses a client (0: registers one), and restarts one of the two replicas if it says so."""
    steady, restarted = Clients(3), Clients(3)
    known = [steady.register()]
    restarted.register()
    for who, sequence, restart in script:
        if restart:
            restarted.reopen()
        if who == 0:
            known.append(steady.register())
            assert restarted.register() == known[-1]
        else:
            client = known[-who % len(known)]
            assert steady.use(client, sequence) == restarted.use(client, sequence)
        assert steady.state.content() == restarted.state.content()
    assert list(steady.sessions._by_use.items()) == list(restarted.sessions._by_use.items())


def test_all_sessions_of_the_bound_are_kept() -> None:
    cluster = Cluster()
    group = envelope.group([envelope.register_session()] * (SESSIONS_MAX // 10))
    clients = [outcome.revision for outcome in cluster.apply(*[group] * 10)]
    assert cluster.machine.session_count == len(cluster.rows(Database.SESSIONS)) == SESSIONS_MAX
    cluster.run(PUT, once=Once(clients[0], 1, 1))
    cluster.register()
    assert cluster.machine.session_count == len(cluster.rows(Database.SESSIONS)) == SESSIONS_MAX
    assert statuses(cluster.run(PUT, once=Once(clients[0], 1, 1))) == [Status.OK]
    assert statuses(cluster.run(PUT, once=Once(clients[1], 1, 1))) == [Status.SESSION_EXPIRED]


def test_a_batch_of_puts_is_one_small_record() -> None:
    cluster = Cluster()
    client = cluster.register()
    cluster.run(*puts(64), once=Once(client, 1, 1))
    ((key, record),) = cluster.rows(Database.RESULTS).items()
    assert key == client.to_bytes(8, "big") + (1).to_bytes(8, "big")
    assert record.hex() == "0000400000000000000001"
    cluster.run(PUT, envelope.delete(b"k"), once=Once(client, 65, 65))
    ((key, record),) = cluster.rows(Database.RESULTS).items()
    assert record.hex() == "0100020000000000000000000000410000000000010001000000000000004200000000"


@pytest.mark.parametrize("offsets", [[0, 1, 2], [0, 4, 5]])
def test_a_batch_with_a_refused_put_or_with_gaps_is_answered_one_by_one(offsets: list[int]) -> None:
    cluster = Cluster()
    some, once = [PUT, envelope.put(b"", b""), PUT], Once(cluster.register(), 1, 1)
    first = cluster.run(*some, once=once, offsets=offsets)
    assert statuses(first) == [Status.OK, Status.REFUSED, Status.OK]
    assert cluster.run(*some, once=once, offsets=offsets) == first
    assert kv.read_revision(cluster.state.get) == 2


def test_a_restart_counts_only_what_is_not_acknowledged() -> None:
    cluster = Cluster()
    client = cluster.register()
    cluster.run(*puts(1_000), once=Once(client, 1, 1))
    cluster.run(PUT, once=Once(client, 1_001, 1_000))  # the record of the first thousand stays for its last
    cluster.reopen()
    assert set(statuses(cluster.run(*puts(RESULTS_MAX - 2), once=Once(client, 1_002, 1_000)))) == {Status.OK}
    assert statuses(cluster.run(PUT, once=Once(client, 3_000, 1_000))) == [Status.REFUSED]
