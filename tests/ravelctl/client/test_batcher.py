"""CommandBatcher on virtual time: its bounds are reached, released and reached again, and its times are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ravelctl.client import (
    BusyError,
    ClientMisusedError,
    ClosedError,
    DeadlineError,
    InvalidArgumentError,
    NoLeaderError,
    OutcomeUnknownError,
    RetryPolicy,
    StoppedError,
    UnreachableError,
    UnsupportedVersionError,
)
from ravelctl.client.connection.attempts import LAST_MOMENT_S
from ravelctl.client.connection.connections import Connections
from ravelctl.client.session import batcher
from ravelctl.client.session.batcher import (
    BATCH_BYTES_MAX,
    BYTES_PER_S_MIN,
    COMMAND_BYTES_MAX,
    COMMANDS_MAX,
    EXPIRY_GRAIN_S,
    IN_FLIGHT_MAX,
    WAITING_MAX,
    CommandBatcher,
    CommandKind,
)
from ravelctl.client.session.sequence_window import WINDOW_MAX
from ravelpb.errors import Reason
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import Command
from tests.ravelctl.client.scripted import MINE, Cluster, Network, refusal, refused
from tests.replica.virtual import virtual

A = "a:1"
RETRY = RetryPolicy()
KINDS = [CommandKind.WRITES, CommandKind.WRITES_ONCE]


def put(value: bytes = b"v") -> Command:
    return Command(put=kv_pb2.PutRequest(key=b"k", value=value))


def now() -> float:
    return asyncio.get_running_loop().time()


class Bench:
    """A batcher at one daemon."""

    def __init__(self, kind: CommandKind = CommandKind.WRITES_ONCE, *, retry: RetryPolicy = RETRY) -> None:
        self.network = Network(A)
        self.daemon = self.network[A]
        self.cluster = Cluster(self.daemon)
        self.connections = Connections([A], retry=retry, factory=self.network, cluster_id=MINE)
        self.batcher = CommandBatcher(kind, self.connections, retry)

    def submit(self, count: int = 1, *, size_bytes: int = 100, timeout_s: float = 1000.0) -> list[asyncio.Future[Any]]:
        return [self.batcher.submit(put(), size_bytes, timeout_s) for _ in range(count)]

    async def done(self, *answers: asyncio.Future[Any]) -> None:
        await asyncio.gather(*answers)

    @property
    def outstanding(self) -> list[int]:
        """Commands of each request that was handed over and is not answered."""
        return [len(request.commands) for request in self.daemon.written[len(self.cluster.requests) :]]


def test_the_bounds_are_what_they_were_measured_for() -> None:
    bounds = (COMMANDS_MAX, BATCH_BYTES_MAX, COMMAND_BYTES_MAX, IN_FLIGHT_MAX, WAITING_MAX, EXPIRY_GRAIN_S, BYTES_PER_S_MIN)
    assert bounds == (256, 1 << 20, 64 << 20, 4, 65_536, 0.02, 1 << 20)
    assert WINDOW_MAX == COMMANDS_MAX * IN_FLIGHT_MAX == 1_024


# --- the queue


@pytest.mark.parametrize("kind", list(CommandKind))
@pytest.mark.parametrize("how", ["given up", "expired", "answered"])
def test_the_queue_is_full_has_room_again_and_is_full_again(kind: CommandKind, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "WAITING_MAX", 50)

    @virtual
    async def run() -> None:
        bench = Bench(kind)
        for _ in range(3):
            bench.daemon.reachable = False
            waiting = bench.submit(50, timeout_s=5.0)
            for _ in range(2):
                with pytest.raises(BusyError, match="50 calls of this client wait already"):
                    bench.submit()
            if how == "given up":
                waiting[7].cancel()
                waiting += bench.submit()
                with pytest.raises(BusyError):
                    bench.submit()
                for answer in waiting:
                    answer.cancel()
            elif how == "expired":
                await asyncio.sleep(5.1)
                assert all(isinstance(answer.exception(), UnreachableError) for answer in waiting)
            else:
                bench.daemon.reachable = True
                await bench.done(*waiting)
        await bench.batcher.close()

    run()


@pytest.mark.parametrize("kind", list(CommandKind))
def test_calls_that_have_expired_are_let_go_of(kind: CommandKind) -> None:
    """Their keys and values would stay in memory until a daemon answers, which may be never."""

    @virtual
    async def run() -> None:
        bench = Bench(kind)
        bench.daemon.reachable = False
        expired, waiting = bench.submit(50, timeout_s=1.0), bench.submit(2, timeout_s=60.0)
        await asyncio.sleep(1.1)
        assert all(answer.done() for answer in expired)
        assert [call[0] for call in bench.batcher._waiting] == waiting
        bench.daemon.reachable = True
        await bench.done(*waiting)
        await bench.batcher.close()

    run()


# --- requests in flight


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_requests_are_in_flight_than_the_bound_again_and_again(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        await bench.done(*bench.submit())
        for _ in range(3):
            gates = [asyncio.Event() for _ in range(IN_FLIGHT_MAX)]
            bench.cluster.held = list(gates)
            answers = []
            for _ in range(10 * IN_FLIGHT_MAX):
                answers += bench.submit()
                await asyncio.sleep(0.001)
            taken = len(bench.cluster.requests)
            assert len(bench.daemon.written) == taken + IN_FLIGHT_MAX - 1  # one is being served, the others wait there
            gates[0].set()
            await asyncio.sleep(0.001)
            assert len(bench.daemon.written) == taken + IN_FLIGHT_MAX  # one answer, one more request, with all that waited
            assert len(bench.daemon.written[-1].commands) == 9 * IN_FLIGHT_MAX
            for gate in gates:
                gate.set()
            await bench.done(*answers)
        await bench.batcher.close()

    run()


@virtual
async def test_a_request_holds_so_many_commands_and_bytes() -> None:
    bench = Bench()
    await bench.done(*bench.submit(COMMANDS_MAX + 1))
    assert [len(request.commands) for request in bench.cluster.requests] == [COMMANDS_MAX, 1]
    bench.cluster.requests.clear()
    await bench.done(*bench.submit(9, size_bytes=BATCH_BYTES_MAX // 4))
    assert [len(request.commands) for request in bench.cluster.requests] == [4, 4, 1]
    bench.cluster.requests.clear()
    await bench.done(*bench.submit(2, size_bytes=3 * BATCH_BYTES_MAX), *bench.submit(2, size_bytes=1))
    assert [len(request.commands) for request in bench.cluster.requests] == [1, 1, 2]
    with pytest.raises(InvalidArgumentError) as told:
        bench.submit(size_bytes=COMMAND_BYTES_MAX + 1)
    assert told.value.reason is Reason.REQUEST_TOO_LARGE
    bench.submit(size_bytes=COMMAND_BYTES_MAX)[0].cancel()
    await bench.batcher.close()


@virtual
async def test_the_window_of_a_session_is_full_moves_on_and_is_full_again() -> None:
    """A number stays out until its answer is there: one that is not answered stops those that are 1,024 after it."""
    bench = Bench()
    await bench.done(*bench.submit())
    for round_number in range(2):
        gates = [asyncio.Event() for _ in range(IN_FLIGHT_MAX)]
        bench.cluster.held = list(gates)
        answers = bench.submit(2 * WINDOW_MAX)
        await asyncio.sleep(0.1)
        numbers = [request.once.sequence for request in bench.daemon.written[-IN_FLIGHT_MAX:]]
        first = 2 + round_number * 2 * WINDOW_MAX
        assert numbers == [first, first + 256, first + 512, first + 768]
        assert [request.once.acked_below for request in bench.daemon.written[-IN_FLIGHT_MAX:]] == [first] * 4
        gates[0].set()
        await asyncio.sleep(0.1)
        last = bench.daemon.written[-1]
        assert (last.once.sequence, last.once.acked_below, len(last.commands)) == (first + 1024, first + 256, 256)
        for gate in gates:
            gate.set()
        await bench.done(*answers)
    await bench.batcher.close()


# --- a server that hangs


@pytest.mark.parametrize("kind", KINDS)
def test_a_hang_is_found_after_a_fixed_time_and_more_for_large_requests_only(kind: CommandKind) -> None:
    """Bytes that were answered, or lost with their stream, do not count any more."""

    @virtual
    async def run() -> None:
        bench = Bench(kind)
        await bench.done(*bench.submit())

        async def found_after(count: int, size_bytes: int) -> float:
            """How long the client waits before it takes the server to hang, and drops the connection."""
            dropped = len(bench.daemon.dropped_at)
            bench.cluster.silent = True
            began = now()
            answers = bench.submit(count, size_bytes=size_bytes)
            async with asyncio.timeout(1_000):
                while len(bench.daemon.dropped_at) == dropped:
                    await asyncio.sleep(0.01)
            bench.cluster.silent = False
            await asyncio.gather(*answers, return_exceptions=True)
            return bench.daemon.dropped_at[dropped] - began

        async def answered(count: int, size_bytes: int) -> None:
            await bench.done(*bench.submit(count, size_bytes=size_bytes))

        small = RETRY.progress_timeout_s
        assert small == 1.5
        assert await found_after(1, 1) == pytest.approx(small, abs=0.2)
        for _ in range(3):
            await answered(8, 4 << 20)
            assert await found_after(1, 1) == pytest.approx(small, abs=0.2)
            assert await found_after(4, 8 << 20) == pytest.approx(small + 8, abs=0.2)
            assert await found_after(1, 1) == pytest.approx(small, abs=0.2)
        await bench.batcher.close()

    run()


@virtual
async def test_a_server_that_answers_one_request_after_the_other_does_not_hang() -> None:
    bench = Bench()
    bench.cluster.answer_after_s = RETRY.progress_timeout_s - 0.1
    answers = []
    for _ in range(IN_FLIGHT_MAX):
        answers += bench.submit()
        await asyncio.sleep(0.01)
    await bench.done(*answers)
    assert bench.daemon.calls["Session"] == 1
    await asyncio.sleep(100.0)  # and one that is asked nothing does not hang either
    await bench.done(*bench.submit())
    assert bench.daemon.calls["Session"] == 1
    await bench.batcher.close()


# --- deadlines


@pytest.mark.parametrize("kind", list(CommandKind))
@pytest.mark.parametrize("timeout_s", [0.05, 0.3, 2.0, 90.0])
def test_a_call_ends_at_its_own_deadline(kind: CommandKind, timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        bench.daemon.reachable = False
        (long,) = bench.submit(timeout_s=100.0)
        await asyncio.sleep(1.0)
        began = now()
        (answer,) = bench.submit(timeout_s=timeout_s)
        with pytest.raises((UnreachableError, DeadlineError)):
            await answer
        assert timeout_s <= now() - began <= timeout_s + EXPIRY_GRAIN_S + 1e-6
        if timeout_s == 90.0:
            with pytest.raises(UnreachableError):
                await long
            assert now() == pytest.approx(100.0, abs=EXPIRY_GRAIN_S)
        await bench.batcher.close()

    run()


@pytest.mark.parametrize("kind", list(CommandKind))
@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_call_without_time_is_refused_and_nothing_is_sent(kind: CommandKind, timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        with pytest.raises(DeadlineError, match="nothing was done"):
            bench.submit(timeout_s=timeout_s)
        await asyncio.sleep(1.0)
        assert not bench.daemon.calls
        (forever,) = bench.submit(timeout_s=float("inf"))
        await forever
        await bench.batcher.close()

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_in_flight_at_its_deadline_is_unknown_and_one_that_waits_is_not(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        await bench.done(*bench.submit())
        bench.cluster.silent = True
        (sent,) = bench.submit(timeout_s=1.0)
        await asyncio.sleep(0.1)
        bench.daemon.reachable = False
        with pytest.raises(OutcomeUnknownError, match="no answer came in time"):
            await sent
        assert now() == pytest.approx(1.0, abs=0.1)
        await asyncio.sleep(2.0)
        (waiting,) = bench.submit(timeout_s=1.0)
        with pytest.raises(UnreachableError):
            await waiting
        await bench.batcher.close()

    run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("timeout_s", "last_s"), [(2.0, LAST_MOMENT_S), (0.2, 0.05)])
def test_after_a_failure_a_write_is_not_sent_in_its_last_moment(kind: CommandKind, timeout_s: float, last_s: float) -> None:
    """The leader is elected shortly before the deadline: before the last moment the write is done, in it nothing was."""

    def elected_at(at_s: float) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            bench = Bench(kind, retry=RetryPolicy(backoff_min_s=0.001, backoff_max_s=0.001))
            run_command = bench.cluster.run
            no_leader = kv_pb2.Result(error=refusal(Reason.NO_LEADER, "none"))
            began = now()
            bench.cluster.run = lambda command: run_command(command) if now() - began >= at_s else no_leader  # type: ignore[method-assign]
            (answer,) = bench.submit(timeout_s=timeout_s)
            try:
                await answer
            except NoLeaderError:
                return "nothing done"
            finally:
                await bench.batcher.close()
            return "done"

        return run

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(elected_at(timeout_s - last_s - 0.02)()) == "done"  # type: ignore[arg-type]
        assert runner.run(elected_at(timeout_s - last_s + 0.01)()) == "nothing done"  # type: ignore[arg-type]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    from tests.replica.virtual import VirtualLoop

    return VirtualLoop


@pytest.mark.parametrize("kind", KINDS)
def test_busy_for_longer_than_the_call_is_told_as_busy(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        bench.cluster.run = lambda command: kv_pb2.Result(error=refusal(Reason.BUSY, "busy", retry_after_ms="300"))  # type: ignore[method-assign]
        (answer,) = bench.submit(timeout_s=2.0)
        with pytest.raises(BusyError, match="gave up in time: busy"):
            await answer
        assert 2.0 * 0.75 <= now() <= 2.0 + EXPIRY_GRAIN_S
        assert len(bench.cluster.requests) == pytest.approx(2.0 / 0.3, abs=1.0)
        await bench.batcher.close()

    run()


# --- what ends a stream, and what that proves


@pytest.mark.parametrize(
    ("reason", "proves"),
    [
        (Reason.SHUTTING_DOWN, True),
        (Reason.BLANK, True),
        (Reason.BUSY, True),
        (Reason.STOPPED, False),
        (Reason.INTERNAL, False),
        (Reason.OUTCOME_UNKNOWN, False),
    ],
)
def test_the_end_of_a_stream_makes_a_write_unknown_or_has_it_sent_again(reason: Reason, proves: bool) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(CommandKind.WRITES)
        await bench.done(*bench.submit())

        async def ends(requests: Any) -> Any:
            await anext(requests)
            bench.daemon.handlers["Session"] = lambda requests: bench.cluster.session(bench.daemon, requests)
            raise refused(refusal(reason, "the end"))
            yield

        bench.daemon.handlers["Session"] = ends
        bench.connections._channels.clear()
        again = CommandBatcher(CommandKind.WRITES, bench.connections, RETRY)
        answer = again.submit(put(b"w"), 100, 30.0)
        if proves:
            await answer
            assert bench.cluster.applied[b"w"] == 1
        else:
            with pytest.raises(OutcomeUnknownError, match="the end"):
                await answer
            assert bench.cluster.applied[b"w"] == 0
        await again.close()

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_shutdown_between_commands_is_followed_elsewhere(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        network = Network("a:1", "b:1")
        first, second = Cluster(network["a:1"]), Cluster(network["b:1"])
        first.run = lambda command: kv_pb2.Result(error=refusal(Reason.SHUTTING_DOWN, "bye"))  # type: ignore[method-assign]
        connections = Connections(["a:1", "b:1"], retry=RETRY, factory=network, cluster_id=MINE)
        connections.served("a:1")
        one = CommandBatcher(kind, connections, RETRY)
        await one.submit(put(b"w"), 100, 30.0)
        assert (first.applied[b"w"], second.applied[b"w"]) == (0, 1)
        lost = CommandBatcher(kind, connections, RETRY)
        second.run = first.run  # type: ignore[method-assign]
        with pytest.raises(StoppedError, match="gave up in time: bye"):  # and never as unknown
            await lost.submit(put(b"x"), 100, 1.0)
        await one.close()
        await lost.close()

    run()


@pytest.mark.parametrize("kind", list(CommandKind))
def test_a_port_that_does_not_serve_commands_is_told_at_once(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        bench.daemon.handlers.clear()
        for _ in range(2):
            (answer,) = bench.submit(timeout_s=60.0)
            began = now()
            with pytest.raises(UnsupportedVersionError, match="a:1 does not offer this call"):
                await answer
            assert now() == began
        await bench.batcher.close()

    run()


@pytest.mark.parametrize("kind", [CommandKind.READS, *KINDS])
def test_a_leader_that_moves_again_and_again_is_followed_at_once_as_long_as_work_is_done(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        network = Network("a:1", "b:1")
        one = Cluster(network["a:1"], network["b:1"])
        leader = "a:1"
        for address in ("a:1", "b:1"):
            network[address].handlers["Session"] = lambda requests, address=address: session(address, requests)

        async def session(address: str, requests: Any) -> Any:
            async for request in requests:
                if address == leader:
                    results = [one.run(command) for command in request.commands]
                else:
                    away = refusal(Reason.NOT_LEADER, "elsewhere", leader_address=leader)
                    results = [kv_pb2.Result(error=away)] * len(request.commands)
                yield kv_pb2.SessionResponse(id=request.id, results=results, header=network[address].header)

        connections = Connections(["a:1", "b:1"], retry=RETRY, factory=network, cluster_id=MINE)
        batcher = CommandBatcher(kind, connections, RETRY)
        for number in range(10):
            leader = "ab"[number % 2] + ":1"
            await batcher.submit(put(b"%d" % number), 100, 60.0)
            assert now() == 0.0
        await batcher.close()
        assert set(one.applied.values()) == {1}

    run()


@virtual
async def test_a_channel_that_cannot_be_opened_in_this_process_is_told_at_once() -> None:
    def refuse(endpoint: str) -> Any:
        raise ClientMisusedError("forked")

    batcher = CommandBatcher(CommandKind.WRITES, Connections([A], retry=RETRY, factory=refuse), RETRY)
    with pytest.raises(ClientMisusedError, match="forked"):
        await batcher.submit(put(), 100, 600.0)
    assert now() == 0.0
    await batcher.close()


# --- the end


@pytest.mark.parametrize("kind", KINDS)
def test_closing_tells_what_was_sent_from_what_was_not(kind: CommandKind) -> None:
    @virtual
    async def run() -> None:
        bench = Bench(kind)
        await bench.done(*bench.submit())
        bench.cluster.silent = True
        sent = []
        for _ in range(IN_FLIGHT_MAX):
            sent += bench.submit()
            await asyncio.sleep(0.001)
        (waiting,) = bench.submit()
        await bench.batcher.close()
        assert [type(answer.exception()) for answer in (*sent, waiting)] == [OutcomeUnknownError] * IN_FLIGHT_MAX + [ClosedError]
        with pytest.raises(ClosedError):
            bench.submit()

    run()
