"""The recorder on a small client in memory, which can be made to answer wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from ravelctl.client.errors import BusyError, InternalError, OutcomeUnknownError, RavelError, StoppedError
from ravelctl.client.types import DeleteResult, KeyValue, PutResult, SwapResult
from ravelctl.linearizability.history import Kind, Outcome
from ravelctl.linearizability.recorder import LinearizabilityError, RecordedClient, Recorder, recording


class FakeClient:
    """A dictionary with RavelClient's calls. Each takes effect between two turns of the loop."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, KeyValue] = {}
        self.revision = 0
        self.error_before: RavelError | None = None
        self.error_after: RavelError | None = None
        self.stale: dict[bytes, KeyValue] = {}

    async def _run(self, work: Callable[[], None]) -> None:
        await asyncio.sleep(0)
        if self.error_before:
            raise self.error_before
        work()
        await asyncio.sleep(0)
        if self.error_after:
            raise self.error_after

    def _set(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        self.pairs[key] = KeyValue(key, value, self.revision)

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        revisions: list[int] = []

        def work() -> None:
            self._set(key, value)
            revisions.append(self.revision)

        await self._run(work)
        return PutResult(revisions[0])

    async def get(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        found: list[KeyValue | None] = []
        await self._run(lambda: found.append(self.stale.get(key) or self.pairs.get(key)))
        return found[0]

    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        results: list[DeleteResult] = []

        def work() -> None:
            found = self.pairs.pop(key, None) is not None
            self.revision += found
            results.append(DeleteResult(found, self.revision))

        await self._run(work)
        return results[0]

    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        results: list[KeyValue | None] = []

        def work() -> None:
            results.append(self.pairs.pop(key, None))
            self.revision += results[0] is not None

        await self._run(work)
        return results[0]

    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult:
        results: list[SwapResult] = []

        def work() -> None:
            there = self.pairs.get(key)
            if (there.revision if there else 0) != expected_revision:
                results.append(SwapResult(False, there.revision if there else 0, there))
                return
            self._set(key, value)
            results.append(SwapResult(True, self.revision, None))

        await self._run(work)
        return results[0]


async def _work(client: RecordedClient, rng: Random, count: int) -> None:
    known = 0
    for number in range(count):
        key, value = b"k%d" % rng.randrange(3), b"%d/%d" % (rng.getrandbits(32), number)
        match rng.randrange(5):
            case 0:
                known = (await client.put(key, value)).revision
            case 1:
                await client.get_and_delete(key)
            case 2:
                await client.delete(key)
            case 3:
                known = (await client.compare_and_swap(key, value, expected_revision=known)).revision
            case _:
                found = await client.get(key)
                known = found.revision if found else 0


async def test_callers_that_run_at_once_leave_a_history_with_an_order() -> None:
    async with recording(FakeClient(), only_writers=True) as recorder:
        await asyncio.gather(*(_work(recorder.client(f"c{n}"), Random(n), 100) for n in range(8)))
    report = recorder.check(only_writers=True)
    assert (report.done, report.unknown, report.keys) == (800, 0, 3)
    assert {operation.kind for operation in recorder.history} == set(Kind)
    swaps = {operation.swapped for operation in recorder.history if operation.kind is Kind.COMPARE_AND_SWAP}
    assert swaps == {True, False}


async def test_a_stale_answer_ends_the_block_with_its_explanation() -> None:
    fake = FakeClient()

    async def read_stale() -> None:
        async with recording(fake) as recorder:
            await recorder.client("a").put(b"k", b"1")
            fake.stale[b"k"] = fake.pairs[b"k"]
            await recorder.client("a").put(b"k", b"2")
            await recorder.client("b").get(b"k")

    with pytest.raises(LinearizabilityError, match=r"client b, .* get -> b'1' at revision 1"):
        await read_stale()


async def test_a_block_that_fails_tells_its_own_error() -> None:
    fake = FakeClient()

    async def lose_and_fail() -> None:
        async with recording(fake) as recorder:
            await recorder.client("a").put(b"k", b"1")
            fake.pairs.clear()
            await recorder.client("a").get(b"k")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await lose_and_fail()


@pytest.mark.parametrize("error", [OutcomeUnknownError("it is unknown"), StoppedError("stopped"), InternalError("fault")])
@pytest.mark.parametrize("happens", [True, False])
async def test_an_error_that_promises_nothing_leaves_the_outcome_unknown(error: RavelError, happens: bool) -> None:
    fake = FakeClient()
    async with recording(fake) as recorder:
        fake.error_after, fake.error_before = (error, None) if happens else (None, error)
        with pytest.raises(type(error)):
            await recorder.client("a").put(b"k", b"1")
        fake.error_after = fake.error_before = None
        found = await recorder.client("a").get(b"k")
    assert (found is not None) is happens
    assert recorder.history[0].outcome is Outcome.UNKNOWN


async def test_an_error_that_promises_nothing_was_done_is_held_to_it() -> None:
    fake = FakeClient()
    recorder = Recorder(fake)
    client = recorder.client("a")
    fake.error_before = BusyError("too much waits")
    with pytest.raises(BusyError):
        await client.put(b"k", b"1")
    fake.error_before = None
    assert await client.get(b"k") is None
    assert recorder.check().failed == 1

    fake.error_after = BusyError("too much waits")
    with pytest.raises(BusyError):
        await client.put(b"k", b"2")
    fake.error_after = None
    assert await client.get(b"k") is not None
    with pytest.raises(LinearizabilityError, match="b'2'"):
        recorder.check()


async def test_calls_under_way_and_cancelled_ones_are_of_unknown_outcome() -> None:
    fake = FakeClient()
    recorder = Recorder(fake)
    task = asyncio.create_task(recorder.client("a").put(b"k", b"1"))
    await asyncio.sleep(0)
    assert [operation.outcome for operation in recorder.history] == [Outcome.UNKNOWN]
    while not fake.pairs:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await recorder.client("b").get(b"k") is not None
    report = recorder.check()
    assert (report.done, report.unknown) == (1, 1)


async def test_clients_of_several_connections_share_one_history_and_its_clock() -> None:
    times = iter(range(100))
    fake = FakeClient()
    recorder = Recorder(fake, clock=lambda: float(next(times)))
    other = FakeClient()
    await recorder.client("a").put(b"k", b"1")
    await recorder.client("b", other).get(b"k")
    assert [(each.client, each.invoked_s, each.completed_s) for each in recorder.history] == [("a", 0.0, 1.0), ("b", 2.0, 3.0)]
    with pytest.raises(LinearizabilityError, match="nothing was there"):
        recorder.check()
