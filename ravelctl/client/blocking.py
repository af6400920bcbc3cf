"""The client for programs without an event loop: scripts, notebooks, threads.

    from ravelctl.client import connect

    with connect("127.0.0.1:7400,127.0.0.1:7410") as store:
        store.put(b"orders/17", b"shipped")
        for item in store.scan(prefix=b"orders/"):
            print(item.key, item.value)

A `BlockingClient` runs a `RavelClient` on an event loop in a thread of its own, and hands each call over to it. So the calls of
many threads travel together like those of many tasks. The calling thread waits for a `concurrent.futures.Future`; Ctrl-C
interrupts that wait and cancels the call. A write that was sent may have happened all the same: then the `__cause__` of the
KeyboardInterrupt is OutcomeUnknownError.

A call may come while another thread closes the client, when the loop takes it and never runs it. So every answer is kept in
`_waiting` until it is there, and the thread ends the remaining ones when its loop is gone.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from ravelctl.client.client import RavelClient
from ravelctl.client.connection.owner import check_process, forked
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import ClosedError, NotSentError, OutcomeUnknownError, RavelError
from ravelctl.client.session.watch import Watch
from ravelctl.client.types import (
    Condition,
    Consistency,
    DeleteResult,
    KeyValue,
    Operation,
    PutResult,
    SwapResult,
    WatchEvent,
    WriteResult,
)

T = TypeVar("T")

HANDED_OVER_MAX: Final = 1_000
"""Keys of a scan that the loop's thread hands over at once."""

CANCEL_S: Final = 1.0
"""How long an interrupted call may take to report what became of it."""


def connect(
    endpoints: str | Sequence[str] = (),
    *,
    admin: str | Sequence[str] = (),
    timeout_s: float = 5.0,
    exactly_once: bool = True,
    retry: RetryPolicy | None = None,
    tls: TlsOptions | None = None,
    cluster_id: str = "",
) -> BlockingClient:
    """Return a client of the cluster at these endpoints, or of all clusters of the admin group at `admin`.

    Addresses are "host:port", several with commas between, or a sequence. The other arguments are those of `RavelClient`. Nothing
    is dialled yet. Raises InvalidArgumentError.
    """
    found, admins = _listed(endpoints), _listed(admin)
    return BlockingClient(
        lambda: RavelClient(
            found,
            admin=admins,
            timeout_s=timeout_s,
            exactly_once=exactly_once,
            retry=retry,
            tls=tls,
            cluster_id=cluster_id,
        )
    )


def _listed(addresses: str | Sequence[str]) -> list[str]:
    return [part.strip() for part in addresses.split(",")] if isinstance(addresses, str) else list(addresses)


class BlockingClient:
    """`RavelClient` for threads: the same calls, arguments, results and errors, without `await`. `connect` makes one.

    Any number of threads may use it at the same time. After `close` every call raises ClosedError. In a process that was forked
    from the client's own, every call raises ClientMisusedError. In a thread that runs an event loop calls raise RuntimeError,
    because they would stop that loop: use RavelClient there.

    Ctrl-C during a write raises KeyboardInterrupt. Its `__cause__` is OutcomeUnknownError if the write was sent, else
    NotSentError.
    """

    def __init__(self, make: Callable[[], RavelClient]) -> None:
        """`make` is called in the loop's thread."""
        self._waiting: set[Future[Any]] = set()
        self._ended = False  # the thread's loop is gone: no call is answered any more
        self._pid = os.getpid()
        self._closing = False
        self._refuse_loop()
        check_process()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, RavelClient]] = Future()
        self._thread = threading.Thread(target=self._run, args=(make, started), name="ravel-client", daemon=True)
        self._thread.start()
        self._loop, self._stop, self._client = started.result()
        atexit.register(self.close)

    def _run(self, make: Callable[[], RavelClient], started: Future[Any]) -> None:
        """Run one loop with one client in this thread, until the client is closed."""

        async def serve() -> None:
            try:
                client = make()
            except BaseException as error:  # of any kind: the thread that waits for the client must get it
                started.set_exception(error)
                return
            stop = asyncio.Event()
            async with client:
                started.set_result((asyncio.get_running_loop(), stop, client))
                await stop.wait()

        try:
            asyncio.run(serve())
        finally:
            self._ended = True
            for answer in list(self._waiting):
                answer.cancel()

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` on the loop and wait for its answer."""
        if self._pid != os.getpid():
            raise forked(self._pid)
        self._refuse_loop()
        if self._closing:
            raise _closed()
        call = _Call(work())
        coroutine = call.run()
        try:
            answer: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop was closed a moment ago
            coroutine.close()
            call.work.close()
            raise _closed() from None
        self._waiting.add(answer)
        if self._ended:
            answer.cancel()
        try:
            return answer.result()
        except CancelledError:
            raise _closed() from None
        except KeyboardInterrupt as interrupt:
            raise interrupt from self._outcome_of(call, answer, interrupt)
        finally:
            self._waiting.discard(answer)

    def _outcome_of(self, call: _Call[T], answer: Future[T], interrupt: KeyboardInterrupt) -> BaseException | None:
        """Cancel an interrupted call, and return what is known of its write; None: it writes nothing, or has an answer."""
        with suppress(RuntimeError):  # the loop is gone, and the call with it
            self._loop.call_soon_threadsafe(call.cancel)
        wait([answer], CANCEL_S)
        if not answer.done():
            return OutcomeUnknownError(
                "the call was interrupted and did not end: a write may or may not have happened",
                next_step="read before writing again",
            )
        if not answer.cancelled() and answer.exception() is None:
            interrupt.add_note(f"the interrupted call has its answer: {answer.result()!r}")
        return call.outcome

    @staticmethod
    def _refuse_loop() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise RuntimeError("a blocking call would stop the event loop of this thread: use RavelClient there, and await its calls")

    def close(self) -> None:
        """End every call, close the connections, end the thread. Open calls raise ClosedError or OutcomeUnknownError.

        Safe to call twice. Does nothing in a process that was forked from the client's own.
        """
        if self._pid != os.getpid():
            return
        if self._closing:
            self._thread.join()
            return
        self._closing = True
        atexit.unregister(self.close)
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            return  # the loop ended by itself
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- the calls of RavelClient

    def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        return self._call(lambda: self._client.put(key, value, timeout_s=timeout_s))

    def get(
        self, key: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout_s: float | None = None
    ) -> KeyValue | None:
        return self._call(lambda: self._client.get(key, consistency=consistency, timeout_s=timeout_s))

    def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        return self._call(lambda: self._client.delete(key, timeout_s=timeout_s))

    def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        return self._call(lambda: self._client.get_and_delete(key, timeout_s=timeout_s))

    def compare_and_swap(self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None) -> SwapResult:
        return self._call(
            lambda: self._client.compare_and_swap(key, value, expected_revision=expected_revision, timeout_s=timeout_s)
        )

    def write(
        self, operations: Sequence[Operation], *, conditions: Sequence[Condition] = (), timeout_s: float | None = None
    ) -> WriteResult:
        return self._call(lambda: self._client.write(operations, conditions=conditions, timeout_s=timeout_s))

    def prepare(self, *, timeout_s: float | None = None) -> None:
        self._call(lambda: self._client.prepare(timeout_s=timeout_s))

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        async def grouped() -> list[list[bytes]]:
            return self._client.groups(keys)

        return self._call(grouped)

    def scan(
        self,
        *,
        prefix: bytes | None = None,
        start: bytes = b"",
        end: bytes | None = None,
        limit: int = 0,
        keys_only: bool = False,
        consistency: Consistency = Consistency.LINEARIZABLE,
        page_keys_max: int = 1_000,
        timeout_s: float | None = None,
    ) -> Iterator[KeyValue]:
        """Return a plain iterator. Until it ends, or is closed or collected, it holds a stream: `contextlib.closing` helps."""
        items = self._client.scan(
            prefix=prefix,
            start=start,
            end=end,
            limit=limit,
            keys_only=keys_only,
            consistency=consistency,
            page_keys_max=page_keys_max,
            timeout_s=timeout_s,
        )

        async def some() -> list[KeyValue]:
            found: list[KeyValue] = []
            async for item in items:
                found.append(item)
                if len(found) == min(page_keys_max, HANDED_OVER_MAX):
                    break
            return found

        try:
            while part := self._call(some):
                yield from part
        finally:
            if not self._closing:
                self._call(items.aclose)

    def watch(
        self,
        *,
        key: bytes | None = None,
        prefix: bytes | None = None,
        start: bytes = b"",
        end: bytes | None = None,
        from_revision: int | None = None,
        after: str | None = None,
        timeout_s: float | None = None,
        outage_max_s: float | None = None,
    ) -> BlockingWatch:
        """Return a watch as `RavelClient.watch` does; it has begun when this returns."""

        async def begin() -> Watch:
            watch = self._client.watch(
                key=key,
                prefix=prefix,
                start=start,
                end=end,
                from_revision=from_revision,
                after=after,
                timeout_s=timeout_s,
                outage_max_s=outage_max_s,
            )
            await watch.started()
            return watch

        return BlockingWatch(self._call, self._call(begin))


class _Call(Generic[T]):
    """One call on the loop's thread, which another thread may cancel and then ask what became of it."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.work = work
        self.outcome: BaseException | None = None  # of a cancelled write: OutcomeUnknownError or NotSentError
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def run(self) -> T:
        self._task = asyncio.current_task()
        if self._cancelled:
            self.work.close()
            self.outcome = NotSentError("the call was cancelled before it was sent: nothing was done")
            raise asyncio.CancelledError
        try:
            return await self.work
        except asyncio.CancelledError as cancelled:
            self.outcome = cancelled.__cause__
            raise
        except RavelError as error:
            self.outcome = error
            raise

    def cancel(self) -> None:
        """Cancel the call. Runs on the loop."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


class BlockingWatch:
    """Changes as they happen: an iterator without end, and a context that ends the watch. Used by one thread."""

    def __init__(self, call: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any], watch: Watch) -> None:
        self._call = call
        self._watch = watch

    @property
    def revision(self) -> int:
        """All changes up to this revision were handed out, and the next one was asked for: another watch continues at it + 1."""
        return self._watch.revision

    @property
    def position(self) -> str:
        """The place of the watch, as `watch(after=...)` takes it."""
        return self._watch.position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchEvent:
        """Wait for the next change and return it. Raises what `Watch` raises."""
        event: WatchEvent = self._call(self._watch.__anext__)
        return event

    def close(self) -> None:
        """End the watch. Safe to call twice, and after the client was closed."""

        async def end() -> None:
            self._watch.close()

        try:
            self._call(end)
        except ClosedError:
            return  # with its client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _closed() -> ClosedError:
    return ClosedError("the client was closed", next_step="connect again")
