"""Attempts and their waits, on virtual time: which address is next, when, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ravelctl.client import (
    BusyError,
    CompactedError,
    DeadlineError,
    HandshakeError,
    InternalError,
    NoLeaderError,
    NotFoundError,
    NotLeaderError,
    RavelError,
    RetryPolicy,
    SessionExpiredError,
    StoppedError,
    UnreachableError,
    UnsupportedVersionError,
    WrongServerError,
)
from ravelctl.client.connection.attempts import LAST_MOMENT_S, Attempts, Backoff, Obstacles, last_moment_s
from ravelctl.client.connection.connections import WRONG_FOR_S, Connections
from ravelctl.client.connection.failures import ConnectionLostError, NotOfferedError, hanging
from ravelctl.client.connection.rules import Next, Rule
from ravelpb.errors import Field, Reason
from tests.ravelctl.client.scripted import MINE, OTHER, Network
from tests.replica.virtual import virtual

A, B, C = "a:1", "b:1", "c:1"
POLICY = RetryPolicy(backoff_min_s=1.0, backoff_max_s=8.0, backoff_growth=2.0)


def now() -> float:
    return asyncio.get_running_loop().time()


def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chance: every wait is three quarters of its full length."""
    monkeypatch.setattr("random.random", lambda: 0.5)


def connections_of(*endpoints: str, on_lost: Callable[[], None] | None = None, cluster_id: str = MINE) -> Connections:
    return Connections(endpoints, retry=POLICY, factory=Network(), cluster_id=cluster_id, on_lost=on_lost)


def other(endpoint: str) -> WrongServerError:
    return WrongServerError(f"{endpoint} is not mine", reason=Reason.WRONG_CLUSTER_ID, metadata={Field.CLUSTER_ID: OTHER})


def leads_at(address: str) -> NotLeaderError:
    return NotLeaderError("no", metadata={Field.LEADER_ADDRESS: address})


async def fail_for_ever(attempts: Attempts, error: Callable[[str], RavelError]) -> None:
    while True:
        endpoint = attempts.choose()
        await attempts.failed(endpoint, error(endpoint))


# --- waits


@virtual
async def test_waits_grow_and_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    half(monkeypatch)
    backoff = Backoff(POLICY)
    took: list[float] = []
    for _ in range(5):
        began = now()
        await backoff.wait()
        took.append(now() - began)
    assert took == pytest.approx([0.75, 1.5, 3.0, 6.0, 6.0])
    assert (backoff.waits, backoff.left_s, backoff.is_over) == (5, None, False)
    backoff.restart(None)
    began = now()
    await backoff.wait()
    assert now() - began == pytest.approx(0.75)
    await backoff.wait(at_least_s=20.0)
    assert now() - began == pytest.approx(20.75)


@pytest.mark.parametrize(("timeout_s", "last_s"), [(10.0, 0.1), (0.4, 0.1), (0.2, 0.05), (0.02, 0.005)])
def test_no_attempt_begins_in_the_last_moment(timeout_s: float, last_s: float) -> None:
    assert last_moment_s(timeout_s) == pytest.approx(last_s)
    assert LAST_MOMENT_S == 0.1

    @virtual
    async def run() -> None:
        backoff = Backoff(POLICY, timeout_s)
        began = now()
        assert backoff.left_s == pytest.approx(timeout_s)
        while not backoff.is_over:
            await backoff.wait()
        assert now() - began == pytest.approx(timeout_s - last_s)
        assert backoff.left_s == pytest.approx(last_s)
        assert str(backoff.gave_up(NoLeaderError("none"))) == f"gave up within {timeout_s:.3g} s: none"

    run()


@virtual
async def test_a_backoff_without_time_is_refused() -> None:
    for timeout_s in (0.0, -1.0, float("nan")):
        with pytest.raises(DeadlineError, match="nothing was done"):
            Backoff(POLICY, timeout_s)
    assert Backoff(POLICY, float("inf")).left_s == float("inf")


# --- the next address


@virtual
async def test_an_untried_address_comes_first_and_a_known_leader_before_all() -> None:
    connections = connections_of(A, B, C)
    attempts = Attempts(connections, POLICY)
    for endpoint in (A, B):
        assert attempts.choose() == endpoint
        await attempts.failed(endpoint, NoLeaderError("none"))
    another = Attempts(connections, POLICY)
    assert another.choose() == C  # in turn, whoever asks
    assert another.choose() == A
    assert attempts.choose() == C  # A would be next in turn, but was tried
    connections.served(B)
    assert attempts.choose() == B
    attempts.served(B)
    assert attempts.tried == set()


@virtual
async def test_any_replica_is_tried_at_once_until_all_were(monkeypatch: pytest.MonkeyPatch) -> None:
    half(monkeypatch)
    attempts = Attempts(connections_of(A, B, C), POLICY, any_replica=True)
    at: list[float] = []
    for _ in range(5):
        endpoint = attempts.choose()
        await attempts.failed(endpoint, StoppedError("stops", reason=Reason.SHUTTING_DOWN))
        at.append(now())
    assert at == pytest.approx([0.0, 0.0, 0.75, 2.25, 5.25])
    attempts.progressed()
    await attempts.failed(attempts.choose(), StoppedError("stops", reason=Reason.SHUTTING_DOWN))
    assert now() == pytest.approx(5.25)  # what went before does not count any more


@virtual
async def test_attempts_that_need_no_wait_end_with_the_time_too() -> None:
    attempts = Attempts(connections_of(*(f"n{number}:1" for number in range(50))), POLICY, timeout_s=1.0, any_replica=True)

    async def fail_slowly() -> None:
        while True:
            await asyncio.sleep(0.11)
            await attempts.failed(attempts.choose(), StoppedError("stops", reason=Reason.SHUTTING_DOWN))

    with pytest.raises(StoppedError, match="gave up within 1 s"):
        await fail_slowly()
    assert len(attempts.tried) == 9
    assert now() == pytest.approx(0.99)


@virtual
async def test_after_progress_waits_begin_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    half(monkeypatch)
    attempts = Attempts(connections_of(A), POLICY)
    for _ in range(2):
        at: list[float] = []
        began = now()
        for _ in range(4):
            await attempts.failed(A, NoLeaderError("none"))
            at.append(now() - began)
        assert at == pytest.approx([0.75, 2.25, 5.25, 11.25])
        attempts.progressed()
        assert not attempts.obstacles


@virtual
async def test_for_the_leader_every_failure_is_followed_by_a_wait() -> None:
    attempts = Attempts(connections_of(A, B, C), POLICY)
    for number in range(3):
        began = now()
        await attempts.failed(attempts.choose(), NoLeaderError("none"))
        assert now() - began >= 0.5 * 2**number


@virtual
async def test_a_named_leader_is_followed_at_once_but_not_for_ever() -> None:
    attempts = Attempts(connections_of(A), POLICY)
    for number, named in enumerate((B, C, B, C)):
        began = now()
        await attempts.failed(A if number == 0 else attempts.choose(), leads_at(named))
        assert (now() == began) is (number < POLICY.redirects_free)
        assert attempts.choose() == named
    assert attempts.connections.endpoints == (A, B, C)


@virtual
async def test_the_server_s_own_wait_is_kept() -> None:
    attempts = Attempts(connections_of(A), POLICY)
    await attempts.failed(A, BusyError("busy", metadata={Field.RETRY_AFTER_MS: "30000"}))
    assert now() == pytest.approx(30.0)


@virtual
async def test_an_expired_session_is_replaced_at_once_but_not_for_ever() -> None:
    attempts = Attempts(connections_of(A), POLICY, carries_many=True)
    for number in range(4):
        began = now()
        await attempts.failed(A, SessionExpiredError("expired"))
        assert (now() == began) is (number < POLICY.redirects_free)


@virtual
async def test_one_that_hangs_is_left_and_asked_again_when_its_time_is_over() -> None:
    connections = connections_of(A, B)
    connections.served(A)
    attempts = Attempts(connections, POLICY)
    await attempts.failed(A, hanging(A))
    assert now() == 0.0  # another one is there
    assert attempts.choose() == B
    await asyncio.sleep(POLICY.suspicion_s + 0.01)
    assert attempts.choose() == A  # it leads, as far as is known


@virtual
async def test_a_broken_stream_alone_makes_nobody_suspected() -> None:
    connections = connections_of(A, B)
    connections.served(A)
    attempts = Attempts(connections, POLICY)
    await attempts.failed(A, ConnectionLostError("broke"))
    assert attempts.choose() == A
    await attempts.failed(A, ConnectionLostError("broke"))
    assert attempts.choose() == B


# --- how an operation ends


@virtual
async def test_what_every_replica_would_refuse_is_raised_at_once() -> None:
    attempts = Attempts(connections_of(A, B), POLICY, timeout_s=10.0)
    with pytest.raises(NotFoundError):
        await attempts.failed(A, NotFoundError("not there"))
    with pytest.raises(InternalError):
        await attempts.failed(A, InternalError("a fault"))
    await attempts.failed(A, CompactedError("gone"), rule=Rule(Next.ELSEWHERE, True))  # the operation knows better
    assert now() > 0


@virtual
async def test_an_error_that_ends_a_stream_of_many_calls_answers_none_of_them() -> None:
    attempts = Attempts(connections_of(A, B), POLICY, carries_many=True)
    await attempts.failed(A, InternalError("a fault"))
    assert now() > 0


@pytest.mark.parametrize("timeout_s", [0.3, 2.0, 60.0])
def test_an_operation_ends_within_its_time_and_not_long_before(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        attempts = Attempts(connections_of(A, B), POLICY, timeout_s=timeout_s)
        with pytest.raises(NoLeaderError, match=rf"no leader was found within {timeout_s:.3g} s: none"):
            await fail_for_ever(attempts, lambda endpoint: NoLeaderError("none"))
        assert timeout_s - last_moment_s(timeout_s) <= now() + 1e-6 <= timeout_s

    run()


@virtual
async def test_an_attempt_may_take_half_of_the_time_or_as_long_as_a_server_may_take() -> None:
    attempts = Attempts(connections_of(A), POLICY, timeout_s=10.0)
    assert attempts.limit_s() == pytest.approx(5.0)
    assert attempts.limit_s(alone=True) == pytest.approx(10.0)
    await asyncio.sleep(8.0)
    assert attempts.limit_s() == pytest.approx(1.5)
    await asyncio.sleep(1.0)
    assert attempts.limit_s() == pytest.approx(1.0)
    assert Attempts(connections_of(A), POLICY).limit_s() is None


@virtual
async def test_addresses_that_all_belong_to_others_end_it_at_once() -> None:
    connections = connections_of(A, B, C)
    connections.served(A)
    attempts = Attempts(connections, POLICY, timeout_s=60.0)
    await attempts.failed(A, other(A))
    assert connections.leader is None
    await attempts.failed(B, NotOfferedError("b:1 does not offer this call"))
    assert now() == 0.0  # there is another one
    assert attempts.choose() == C
    assert not connections.hopeless
    with pytest.raises(WrongServerError, match="c:1 is not mine"):
        await attempts.failed(C, other(C))
    assert now() == 0.0


@virtual
async def test_while_somebody_may_name_new_addresses_it_is_not_over() -> None:
    asked: list[float] = []
    connections = connections_of(A, on_lost=lambda: asked.append(now()))
    attempts = Attempts(connections, POLICY, timeout_s=10.0)
    await attempts.failed(attempts.choose(), other(A))
    assert now() > 0.0
    assert attempts.choose() == A
    assert asked
    connections.learn(B)
    assert attempts.choose() == B
    with pytest.raises(WrongServerError, match="gave up within 10 s: b:1 is not mine"):
        await fail_for_ever(attempts, lambda endpoint: other(B))
    assert now() >= 9.9


@virtual
async def test_a_wrong_address_is_asked_again_after_a_while_and_a_learned_one_is_dropped() -> None:
    connections = connections_of(A, B)
    attempts = Attempts(connections, POLICY)
    await attempts.failed(A, other(A))
    assert {connections.choose_any() for _ in range(4)} == {B}
    assert connections.usable == {B}
    await asyncio.sleep(WRONG_FOR_S)
    assert {connections.choose_any() for _ in range(4)} == {A, B}
    connections.served(A)
    assert connections.usable == {A, B}
    connections.learn(C)
    await attempts.failed(C, other(C))
    assert connections.endpoints == (A, B)


@virtual
async def test_it_is_no_longer_wrong_once_it_says_something_else() -> None:
    connections = connections_of(A)
    attempts = Attempts(connections, POLICY, carries_many=True)
    with pytest.raises(WrongServerError):
        await attempts.failed(A, other(A))
    await attempts.failed(A, NoLeaderError("none"))
    assert connections.usable == {A}


# --- what is told in the end


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        ([], DeadlineError, "the cluster did not answer within 3 s"),
        ([(A, UnreachableError("a is away"))], UnreachableError, "no daemon answered within 3 s (endpoint a:1): a is away"),
        (
            [(A, UnreachableError("a is away")), (B, ConnectionLostError("b broke"))],
            UnreachableError,
            "no daemon answered within 3 s (endpoints a:1, b:1): b broke",
        ),
        ([(A, HandshakeError("no TLS")), (B, UnreachableError("away"))], UnreachableError, "no TLS"),
        ([(A, NoLeaderError("none")), (B, UnreachableError("away"))], NoLeaderError, "no leader was found within 3 s: none"),
        ([(A, leads_at(B))], NoLeaderError, "no leader was found within 3 s: no"),
        ([(A, BusyError("busy")), (B, StoppedError("stopped"))], StoppedError, "gave up within 3 s: stopped"),
        ([(A, StoppedError("stopped")), (B, BusyError("busy")), (A, StoppedError("again"))], StoppedError, "again"),
        ([(A, other(A)), (B, UnreachableError("away"))], WrongServerError, "gave up within 3 s: a:1 is not mine"),
        ([(A, BusyError("busy")), (B, other(B))], BusyError, "gave up within 3 s: busy"),
        ([(A, UnsupportedVersionError("too old"))], UnsupportedVersionError, "gave up within 3 s: too old"),
    ],
)
def test_the_most_telling_error_is_raised(found: list[tuple[str, RavelError]], kind: type[RavelError], words: str) -> None:
    obstacles = Obstacles()
    for endpoint, error in found:
        obstacles.note(endpoint, error)
    told = obstacles.deadline_error(3.0)
    assert type(told) is kind
    assert words in told.message
    assert bool(obstacles) is bool(found)
    obstacles.clear()
    assert not obstacles
    assert obstacles.deadline_error().message == "the cluster did not answer in time"
