"""`verify`: clients against every replica of a live cluster, everything they are told written down, and judged.

Each client writes values that nobody else writes, to a few keys under a prefix drawn for this run, so that what it reads says
whose write it saw. Reads are asked of the client's own replica first: one that answers though it does not lead is believed, and
judged. Linearizable and quorum reads, writes and swaps are judged together: there must be one order of all of them that honours
real time. Of stale reads less is promised: see `linearizability.stale`. At the end all under the prefix is deleted, however
the run ended.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from ravelctl.cli import dial
from ravelctl.cli.errors import CommandError
from ravelctl.client.errors import RavelError
from ravelctl.client.services.replica_reader import ReplicaReader
from ravelctl.client.types import Consistency, DeleteResult, KeyValue, PutResult, SwapResult
from ravelctl.cluster.deletion import count_prefix, delete_prefix
from ravelctl.cluster.membership import cluster_status
from ravelctl.linearizability.checker import Report, check
from ravelctl.linearizability.history import Operation, Outcome
from ravelctl.linearizability.recorder import Recorder
from ravelctl.linearizability.search import TooHardError
from ravelctl.linearizability.stale import StaleRead, broken_promises

if TYPE_CHECKING:
    from ravelctl.cli.app import App, Progress
    from ravelctl.client import RavelClient

PREFIX: Final = ".ravelctl-verify/"

OPERATIONS_MAX: Final = 30_000
"""Recorded in one run: judging them takes seconds, and memory is bounded."""

OWN_REPLICA_S: Final = 1.0
"""How long a client waits for its own replica before it asks the leader."""

PAUSE_S: Final = 0.02
"""After a refusal, which comes back at once."""

CLEAN_TRIES: Final = 6
CLEAN_PAUSE_S: Final = 0.1
CLEAN_S: Final = 20.0


class Plan(NamedTuple):
    """How much is done."""

    seconds: float
    clients: int
    keys: int
    prefix: bytes


def drawn_prefix() -> bytes:
    """One that no other run has."""
    return f"{PREFIX}{secrets.token_hex(8)}/".encode()


class Replica(NamedTuple):
    name: str
    address: str


@dataclass(slots=True)
class Figures:
    """What was done, and what is wrong with it."""

    plan: Plan
    replicas: Sequence[Replica]
    elapsed_s: float
    operations: Counter[tuple[str, Outcome]]  # kind, how it ended
    answered: Counter[str]  # reads that each replica answered itself, by name
    stale: int
    report: Report
    broken: Sequence[str] = field(default=())  # promises of stale reads
    left: Sequence[str] = field(default=())  # why keys may not have been deleted


class _Reads:
    """Reads at one replica, and at the leader where that one does not answer. Writes go to the leader."""

    def __init__(self, client: RavelClient, reader: ReplicaReader, replica: Replica, answered: Counter[str]) -> None:
        self._client = client
        self._reader = reader
        self._replica = replica
        self._answered = answered

    async def get(
        self, key: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout_s: float | None = None
    ) -> KeyValue | None:
        try:
            found = (await self._reader.get(self._replica.address, key, consistency)).found
        except RavelError:
            return await self._client.get(key, consistency=consistency, timeout_s=timeout_s)
        self._answered[self._replica.name] += 1
        return found

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        return await self._client.put(key, value, timeout_s=timeout_s)

    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        return await self._client.delete(key, timeout_s=timeout_s)

    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        return await self._client.get_and_delete(key, timeout_s=timeout_s)

    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult:
        return await self._client.compare_and_swap(key, value, expected_revision=expected_revision, timeout_s=timeout_s)


class _Run:
    """One run's clients and what they were told."""

    def __init__(self, app: App, plan: Plan, replicas: Sequence[Replica]) -> None:
        self._app = app
        self._plan = plan
        self._replicas = replicas
        self._keys = [plan.prefix + b"%d" % number for number in range(plan.keys)]
        self._ends = 0.0
        self._recorder: Recorder | None = None
        self.stale: list[StaleRead] = []
        self.answered: Counter[str] = Counter()
        self.trouble: RavelError | None = None  # the last one

    @property
    def history(self) -> Sequence[Operation]:
        return self._recorder.history if self._recorder is not None else ()

    async def load(self, progress: Progress) -> float:
        """Let the clients work for as long as planned; for how long they did."""
        began = time.monotonic()
        self._ends = began + self._plan.seconds
        async with AsyncExitStack() as opened:
            tls, cluster_id = dial.tls(self._app), self._app.settings.cluster_id
            reader = await opened.enter_async_context(ReplicaReader(timeout_s=OWN_REPLICA_S, tls=tls, cluster_id=cluster_id))
            clients = [await opened.enter_async_context(dial.keys(self._app)) for _ in range(self._plan.clients)]
            recorder = self._recorder = Recorder(clients[0])
            async with asyncio.TaskGroup() as tasks:
                for number, client in enumerate(clients):
                    tasks.create_task(self._work(recorder, number, client, reader))
                tasks.create_task(self._tell(recorder, progress, began))
        return time.monotonic() - began

    async def _tell(self, recorder: Recorder, progress: Progress, began: float) -> None:
        while not self._over(recorder):
            done_s = time.monotonic() - began
            progress.amount(int(done_s * 1000), int(self._plan.seconds * 1000), f"{recorder.begun:,} operations")
            await asyncio.sleep(min(0.2, self._plan.seconds))

    def _over(self, recorder: Recorder) -> bool:
        return time.monotonic() >= self._ends or recorder.begun + len(self.stale) >= OPERATIONS_MAX

    async def _work(self, recorder: Recorder, number: int, client: RavelClient, reader: ReplicaReader) -> None:
        replica = self._replicas[number % len(self._replicas)]
        name = f"{number + 1} at {replica.name}"
        caller = recorder.client(name, _Reads(client, reader, replica, self.answered))
        rng = Random(number)
        seen: dict[bytes, int] = {}  # the revision that this client saw last
        written = 0
        while not self._over(recorder):
            key = rng.choice(self._keys)
            chance = rng.random()
            try:
                if chance < 0.30:
                    written += 1
                    seen[key] = (await caller.put(key, b"%d.%d" % (number, written))).revision
                elif chance < 0.45:
                    written += 1
                    value = b"%d.%d" % (number, written)
                    seen[key] = (await caller.compare_and_swap(key, value, expected_revision=seen.get(key, 0))).revision
                elif chance < 0.50:
                    await caller.delete(key)
                    seen[key] = 0
                elif chance < 0.60:
                    await self._stale_read(reader, replica, key)
                else:
                    consistency = Consistency.QUORUM if chance > 0.90 else Consistency.LINEARIZABLE
                    found = await caller.get(key, consistency=consistency)
                    seen[key] = found.revision if found is not None else 0
            except RavelError as error:
                self.trouble = error
                await asyncio.sleep(PAUSE_S)

    async def _stale_read(self, reader: ReplicaReader, replica: Replica, key: bytes) -> None:
        began = time.monotonic()
        reading = await reader.get(replica.address, key, Consistency.STALE)
        self.stale.append(StaleRead(replica.name, key, reading.applied_index, reading.found, began, time.monotonic()))
        self.answered[replica.name] += 1


async def verify(app: App, plan: Plan) -> Figures:
    """Do it all. Raises CommandError where there is no cluster, nothing was done, or no verdict can be given."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
    replicas = [Replica(member.server.name, member.server.addresses.listen) for member in status.members]
    run = _Run(app, plan, replicas)
    with app.progress("verify:") as progress:
        async with _cleaned(app, plan.prefix, progress) as left:
            elapsed_s = await run.load(progress)
        history = run.history
        if not any(operation.outcome is Outcome.DONE for operation in history):
            nothing = CommandError("no operation was answered, so there is nothing to judge", next_step="see `ravelctl status`")
            raise nothing if run.trouble is None else dial.command_error(run.trouble, app)
        progress.update(f"judging {len(history):,} operations")
        report = _judged(history)
    return Figures(
        plan=plan,
        replicas=replicas,
        elapsed_s=elapsed_s,
        operations=Counter((operation.kind.value, operation.outcome) for operation in history),
        answered=run.answered,
        stale=len(run.stale),
        report=report,
        broken=tuple(broken_promises(run.stale, history)),
        left=left,
    )


def _judged(history: Sequence[Operation]) -> Report:
    try:
        return check(history)
    except TooHardError as error:
        unknown = sum(operation.outcome is Outcome.UNKNOWN for operation in history)
        raise CommandError(
            f"no verdict: with {unknown} operations of unknown outcome too many orders are possible",
            next_step="see with `ravelctl status` why writes go unanswered, or repeat with more --keys and fewer --clients",
        ) from error


# --- cleaning up


@asynccontextmanager
async def _cleaned(app: App, prefix: bytes, progress: Progress) -> AsyncIterator[list[str]]:
    """Delete everything under the prefix when the block ends, also by an error or Ctrl-C. What stays is told, and in the list."""
    left: list[str] = []
    try:
        yield left
    finally:
        progress.update("cleaning up")
        if why := await _clean(app, prefix):
            left.append(why)
            app.say(f"warning: keys may be left: {why}; `ravelctl kv del --prefix {prefix.decode()} --yes` deletes them")


async def _clean(app: App, prefix: bytes) -> str:
    """Delete until nothing is found twice in a row, as a write that was under way may land late. Why it failed; empty: it is
    done.
    """
    empty = 0
    try:
        async with asyncio.timeout(CLEAN_S), dial.keys(app) as client:
            for _ in range(CLEAN_TRIES):
                counted = await count_prefix(client, prefix)
                empty = 0 if counted.keys else empty + 1
                if empty == 2:
                    return ""
                await delete_prefix(client, prefix, counted, lambda _: None)
                await asyncio.sleep(CLEAN_PAUSE_S)
    except (RavelError, TimeoutError) as error:
        return str(error) or f"the cluster did not answer within {CLEAN_S:g}s"
    return f"writes to {prefix.decode()} go on"
