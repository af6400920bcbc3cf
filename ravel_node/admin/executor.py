"""The mover: carries out the moves that the directory holds, step by step, while its server leads the admin group.

It keeps nothing that is needed: the directory says what was decided, the clusters say how far they are, and every step can be
repeated. A new leader's mover goes on where the old one stopped.

Two movers at work at once do no harm. Each acts upon a decision only after the directory's log has it, in which there is one
decision of a move; before it, nothing that a mover asks for loses or shows anything (EXPORT notes, IMPORT is invisible, FREEZE
refuses writes for a while, chunks are kept apart as `copying` tells). After it all movers ask for the same steps, which may be
repeated. The one claim that a mover makes is DecideMove(commit): "the destination has every key as it stays at the source". It
makes it only after a full pass of its own, begun while the source took notes, and a last pass over the notes while the source was
frozen. From then on the claim stays true until the move is decided, since only an abort unfreezes, and after an abort a commit is
refused.

The freeze is the one thing that a mover must undo in time, so it must know of it. Each mover has a number, the term in which
its server leads, and EXPORT tells it to the source, which takes no FREEZE of an earlier mover after that. So a mover that has
exported, and looks then, sees the freeze that others have left, or knows that there will be none but its own.

Moves of one cluster are carried out one after the other, oldest first: a cluster takes no move older than one that it has ended.
The source's keys are purged before the move is struck, so that no move ever brings a slot back to where its old keys still lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Final

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import BeginMove, DecideMove, FinishMove
from ravel_node.admin.copying import ChunkLostError, Copier
from ravel_node.admin.model import ClusterNumber, Move, MoveId, Phase
from ravel_node.admin.ports import ClusterAwayError, ClusterPort, DirectoryAwayError, DirectoryPort, StepRefusedError
from ravel_node.admin.progress import Counter, Progress, Totals
from ravelpb.v1.slots_pb2 import (
    ACTIVATE,
    DROP,
    EXPORT,
    FREEZE,
    FROZEN,
    PURGE,
    RELEASE,
    UNFREEZE,
    ChangeSlotsRequest,
    ChangeSlotsResponse,
    SlotsStep,
)

DELETED_AT_ONCE: Final = 1 << 16
"""Keys of one PURGE or DROP. The cluster deletes them in several entries, and fewer if that takes too long."""


@dataclass(frozen=True, slots=True)
class MoverOptions:
    """How the mover goes about it."""

    moves_at_once: int = 4  # that copy all their keys, each between two clusters of its own
    poll_s: float = 0.1  # how often it looks for new moves
    retry_s: float = 0.2  # before it asks again where nobody answered
    frozen_s_max: float = 2.0  # writes to the slots are refused for so long, then the move is called off
    freeze_below_keys: int = 256  # noted by the last pass: so little is copied while writes are refused
    freeze_below_bytes: int = 256 << 10
    passes_max: int = 20  # over the notes; then it freezes, even if more is written than that


class Mover:
    """Runs where its server leads the admin group. `run` is a task that ends when it is cancelled; whoever starts it ends it."""

    def __init__(self, clusters: ClusterPort, directory: DirectoryPort, options: MoverOptions | None = None) -> None:
        self._totals = Totals()
        self._counter: Counter | None = None
        self._clusters = clusters
        self._directory = directory
        self._options = options or MoverOptions()
        self._under_way: dict[MoveId, _Carrier] = {}
        self._ended = asyncio.Event()  # a move has ended since the last look

    @property
    def totals(self) -> Totals:
        """What this mover has done since it was made."""
        counter = self._counter
        return self._totals if counter is None else replace(self._totals, copied=counter.amount, per_s=counter.rate.per_s())

    def progress(self, move_id: MoveId) -> Progress:
        """Return the progress of a move that this mover carries out; an empty one for any other."""
        carrier = self._under_way.get(move_id)
        return Progress() if carrier is None else carrier.progress()

    async def run(self, term: int) -> None:
        """Carry out whatever moves there are, until cancelled. `term` is the one in which this server leads the admin group."""
        self._counter = counter = self._counter or Counter(asyncio.get_running_loop().time)
        copying: set[MoveId] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._ended.clear()
                for move in self._whose_turn_it_is():
                    if move.move_id not in self._under_way:
                        carrier = _Carrier(
                            self._clusters, self._directory, self._options, self._totals, counter, copying, move.move_id, term
                        )
                        self._under_way[move.move_id] = carrier
                        group.create_task(self._carry(carrier), name=f"move {move.move_id}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._options.poll_s):
                        await self._ended.wait()

    def _whose_turn_it_is(self) -> Iterator[Move]:
        """The oldest move of both its clusters, for each pair."""
        busy: set[ClusterNumber] = set()
        for move in self._directory.view().moves.values():
            ends = {move.source, move.destination}
            if not ends & busy:
                yield move
            busy |= ends

    async def _carry(self, carrier: _Carrier) -> None:
        try:
            await carrier.run()
        finally:
            del self._under_way[carrier.move_id]
            self._ended.set()


class _DecidedError(Exception):
    """The move was decided, or called off, while this mover copied: nothing is left to copy."""


class _Carrier:
    """Carries out one move."""

    def __init__(
        self,
        clusters: ClusterPort,
        directory: DirectoryPort,
        options: MoverOptions,
        totals: Totals,
        counter: Counter,
        copying: set[MoveId],
        move_id: MoveId,
        term: int,
    ) -> None:
        self.move_id = move_id
        self._term = term
        self._obstacle = ""
        self._keys_expected: int | None = None
        self._counter = Counter(asyncio.get_running_loop().time, counter)
        self._copying = copying  # of all moves that this mover carries: those whose turn it is to copy all keys
        self._port = clusters
        self._clusters = clusters  # as the directory has them from which this carrier has its phase
        self._directory = directory
        self._options = options
        self._totals = totals
        self._copier: Copier | None = None
        self._compared = False
        self._frozen_until: float | None = None  # by the loop's clock; None: this mover knows of no freeze
        self._phases: Final[dict[Phase, Callable[[Move], Awaitable[None]]]] = {
            Phase.PLANNED: self._begin,
            Phase.COPYING: self._copy,
            Phase.COMMITTED: self._hand_over,
            Phase.ABORTED: self._take_back,
        }

    async def run(self) -> None:
        """From wherever the move is until it is struck. An obstacle is told, and tried again after a while."""
        while (move := (view := self._directory.view()).moves.get(self.move_id)) is not None:
            self._clusters = self._port.as_of(view)
            try:
                await self._phases[move.phase](move)
            except (ClusterAwayError, StepRefusedError, DirectoryAwayError, RefusedError, ChunkLostError) as error:
                stuck = isinstance(error, StepRefusedError) and move.phase is Phase.COMMITTED
                self._obstacle = f"{error}; see `ravelctl admin reconcile --dry-run`" if stuck else str(error)
                await asyncio.sleep(self._options.retry_s)
            else:
                self._obstacle = ""

    def progress(self) -> Progress:
        return Progress(self._counter.amount, self._counter.rate.per_s(), self._keys_expected, self._obstacle)

    async def _begin(self, move: Move) -> None:
        """Nothing is begun while one of its clusters is away: until then it costs nothing to call it off."""
        await self._clusters.ownership(move.source)
        await self._clusters.ownership(move.destination)
        await self._directory.propose(BeginMove(move.move_id))

    # --- copying

    async def _copy(self, move: Move) -> None:
        now = asyncio.get_running_loop().time()
        try:
            if self._frozen_until is not None and self._frozen_until <= now:
                raise TimeoutError
            async with asyncio.timeout_at(self._frozen_until) as bound:
                await self._copy_all(move, bound)
        except TimeoutError:
            obstacle = self._obstacle or "the last keys took too long to copy"
            seconds = self._options.frozen_s_max
            await self._call_off(f"writes were refused for {seconds:g} s, which is all that a move may take: {obstacle}")
        except StepRefusedError as error:
            if await self._is_replaced(move):
                raise  # the move is a later mover's, and it says nothing against the move
            await self._call_off(str(error))
        except _DecidedError:
            return
        else:
            await self._directory.propose(DecideMove(move.move_id, commit=True))

    async def _copy_all(self, move: Move, bound: asyncio.Timeout) -> None:
        """Until the destination has everything, and the source is frozen."""
        exported = await self._step(move.source, EXPORT, slots=move.slots)
        source = await self._clusters.ownership(move.source)  # after EXPORT: see the module
        here = next((there for there in source.moves if there.move == move.move_id), None)
        frozen = here is not None and here.side == FROZEN
        if frozen:
            self._freeze_is_bounded(bound)
        copier = self._copier = self._copier or Copier(move, self)
        copier.clusters = self._clusters
        if self._compared:
            await copier.begin(exported.revision)
        else:
            # A move whose writes are refused waits for no turn. No other mover can freeze the source while this one waits.
            async with nullcontext() if frozen else self._turn():
                await copier.begin(exported.revision)
                self._keys_expected = here.keys if here is not None else None
                self._counter.restart()
                await copier.compare()
            self._compared = True
        for _ in range(self._options.passes_max):
            found = await copier.follow(settle=True)
            if found.keys <= self._options.freeze_below_keys and found.bytes <= self._options.freeze_below_bytes:
                break
        self._freeze_is_bounded(bound)
        await self._step(move.source, FREEZE)
        await copier.follow(settle=False)

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        """Wait for a turn to copy all keys, and end it. Raises _DecidedError."""
        while len(self._copying) >= self._options.moves_at_once:
            self._check_undecided()
            await asyncio.sleep(self._options.poll_s)
        self._copying.add(self.move_id)
        try:
            yield
        finally:
            self._copying.remove(self.move_id)

    def compared(self, keys: int) -> None:
        """See copying.Meter. Raises _DecidedError."""
        self._check_undecided()
        self._counter.compared(keys)

    def copied(self, keys: int, size: int) -> None:
        """See copying.Meter."""
        self._counter.copied(keys, size)

    def _check_undecided(self) -> None:
        move = self._directory.view().moves.get(self.move_id)
        if move is None or move.phase is not Phase.COPYING:
            raise _DecidedError

    async def _is_replaced(self, move: Move) -> bool:
        source = await self._clusters.ownership(move.source)
        return any(there.move == move.move_id and there.mover > self._term for there in source.moves)

    def _freeze_is_bounded(self, bound: asyncio.Timeout) -> None:
        """From the first sight of it, or the first attempt."""
        if self._frozen_until is None:
            self._frozen_until = asyncio.get_running_loop().time() + self._options.frozen_s_max
            bound.reschedule(self._frozen_until)

    async def _call_off(self, why: str) -> None:
        await self._directory.propose(DecideMove(self.move_id, commit=False))
        self._totals.called_off += 1
        self._totals.why_called_off = why

    # --- what follows from the decision

    async def _hand_over(self, move: Move) -> None:
        """First the source lets go, then the destination takes over, so that never two clusters take writes of one slot.

        The destination counts on from the revision at which the source let go: it was told to somebody, maybe.
        """
        released = await self._step(move.source, RELEASE, map_version=move.map_version)
        await self._step(move.destination, ACTIVATE, map_version=move.map_version, revision=released.revision)
        while (await self._step(move.source, PURGE)).more:
            pass
        await self._directory.propose(FinishMove(move.move_id))
        self._totals.slots_moved += len(move.slots)

    async def _take_back(self, move: Move) -> None:
        """First the source takes writes again. What the destination was given already is nothing that anybody sees.

        So a destination that is away does not keep the move: the next import of these slots, or `ravelctl admin reconcile`,
        cleans what is left there.
        """
        await self._step(move.source, UNFREEZE)
        with suppress(ClusterAwayError, StepRefusedError):
            while (await self._step(move.destination, DROP)).more:
                pass
        await self._directory.propose(FinishMove(move.move_id))

    async def _step(
        self,
        cluster: ClusterNumber,
        step: SlotsStep.ValueType,
        *,
        slots: tuple[int, ...] = (),
        map_version: int = 0,
        revision: int = 0,
    ) -> ChangeSlotsResponse:
        request = ChangeSlotsRequest(step=step, move=self.move_id, slots=slots, map_version=map_version, revision=revision)
        if step in (PURGE, DROP):
            request.limit = DELETED_AT_ONCE
        elif step in (EXPORT, FREEZE):
            request.mover = self._term
        return await self._clusters.change(cluster, request)
