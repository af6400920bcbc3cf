"""Do all replicas hold the same? A checksum entry makes each of them hash its state at that one index; the leader compares.

Every replica that applies the entry hashes the state that it left (Store.hash_applied) and keeps the last few hashes, with their
indexes, in memory. The leader proposes such an entry every so often and when somebody asks, and then asks the others what they
have, over the transport between replicas: a hash is no command, and a peer that is away or slow only misses a comparison. Since
each answer holds the last few indexes, the leader sees, also one that was just elected, at which entry two replicas last agreed.

A replica whose hash is not the one of most raises RV602, which stays until it agrees again. Nothing else happens to it: which of
two states is right is for people to say.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome
from ravel_node.machine.envelope import Kind
from ravel_node.raft import EntryId, Index, ReplicaId, Term
from ravel_node.replica.errors import NotLeaderError, ReplicaError
from ravel_node.replica.formats import require_known
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.status import Member
from ravel_node.replica.verdict import Health
from ravel_node.storage.base import DamagedError, StateHash, Store, StoreError
from ravel_node.transport.base import HashAt, ProbeFailedError, StateHashes, Transport

DIVERGED: Final = "RV602"
NO_INDEX: Final = Index(0)

KEPT: Final = 16
"""Checksum entries that a replica remembers what became of."""

TURN_S: Final = 1.0
"""How often the leader looks whether a comparison is due."""

POLL_MIN_S: Final = 0.02
POLL_MAX_S: Final = 1.0
"""Between two questions to a replica that has not finished its hash."""

ASK_TIMEOUT_S: Final = 2.0
REACH_S: Final = 5.0
"""How long a peer that does not answer the question, but is heard of, is asked again."""

CATCH_UP_S: Final = 30.0
"""How long a comparison waits for a replica that has not come to the entry yet."""

HASH_S: Final = 900.0
"""And for one that hashes: the largest states take minutes on a busy machine."""


@dataclass(frozen=True, slots=True)
class ReplicaHash:
    """What one replica holds at the compared entry. `sha256` is empty where it gave none; `problem` says why."""

    replica_id: ReplicaId
    sha256: bytes = b""
    problem: str = ""
    differs: bool = False
    agreed_index: Index = NO_INDEX  # with `differs`: the last checksum entry at which it did not; 0: none is known
    differed_index: Index = NO_INDEX  # and the first one after it at which it did


@dataclass(frozen=True, slots=True)
class Comparison:
    at: EntryId
    replicas: tuple[ReplicaHash, ...]  # by id


def compare(at: Index, answers: Mapping[ReplicaId, StateHashes | str]) -> tuple[ReplicaHash, ...]:
    """Compare what the replicas hold at one entry. An answer that is a text says why there is none.

    Where more than half of the hashes are the same, the others differ; else, if there are several, all of them do.
    """
    given = {replica_id: _hash_at(answer, at) for replica_id, answer in sorted(answers.items())}
    hashes = {replica_id: found.sha256 for replica_id, found in given.items() if found.sha256}
    counts = Counter(hashes.values()).most_common(1)
    most = counts[0][0] if counts and 2 * counts[0][1] > len(hashes) else b""
    compared: list[ReplicaHash] = []
    for replica_id, found in given.items():
        if not found.sha256 or found.sha256 == most:
            compared.append(ReplicaHash(replica_id, found.sha256, found.problem))
            continue
        others = [_by_index(answers[other]) for other, sha256 in hashes.items() if other != replica_id and sha256 != found.sha256]
        agreed, differed = _range(_by_index(answers[replica_id]), others, at)
        compared.append(ReplicaHash(replica_id, found.sha256, "", True, agreed, differed))
    return tuple(compared)


def _hash_at(answer: StateHashes | str, at: Index) -> HashAt:
    if isinstance(answer, str):
        return HashAt(at, Term(0), problem=answer)
    return next(
        (one for one in answer.hashes if one.index == at),
        HashAt(at, Term(0), problem="it has none: it was restarted or took a snapshot since"),
    )


def _by_index(answer: StateHashes | str) -> dict[Index, bytes]:
    return {} if isinstance(answer, str) else {one.index: one.sha256 for one in answer.hashes if one.sha256}


def _range(own: Mapping[Index, bytes], others: Sequence[Mapping[Index, bytes]], at: Index) -> tuple[Index, Index]:
    """The last index up to `at` where a replica held the same as any of the others, and the first one after it where not."""
    common = [index for index in sorted(own) if index <= at and any(index in other for other in others)]
    same = [index for index in common if any(other.get(index) == own[index] for other in others)]
    agreed = same[-1] if same else Index(0)
    return agreed, next(index for index in common if index > agreed)


class Seat(Protocol):
    """What a comparison needs of the replica that leads it."""

    options: ReplicaOptions

    @property
    def id(self) -> ReplicaId: ...

    @property
    def term(self) -> Term: ...

    @property
    def applied(self) -> EntryId: ...

    @property
    def is_leader(self) -> bool: ...

    def members(self) -> Sequence[Member]: ...

    def health(self) -> Health: ...

    def check_leader(self) -> None: ...

    def not_leader(self) -> NotLeaderError: ...

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]: ...


class Alarms(Protocol):
    """Where a difference is told."""

    def raise_alarm(self, code: str, message: str, subject: ReplicaId) -> None: ...

    def clear_alarm(self, code: str, subject: ReplicaId) -> None: ...


class Integrity:
    """One replica's hashes, and on the leader their comparison. Everything runs on the loop."""

    def __init__(
        self,
        replica: Seat,
        *,
        store: Store,
        transport: Transport,
        alarms: Alarms,
        name_of: Callable[[ReplicaId], str],
        clock: Callable[[], float],
    ) -> None:
        self._replica = replica
        self._store = store
        self._transport = transport
        self._alarms = alarms
        self._name_of = name_of
        self._clock = clock
        self._kept: dict[Index, HashAt] = {}  # oldest first
        self.last: StateHash | None = None
        """The newest hash that was made here."""
        self._agreed: dict[ReplicaId, Index] = {}  # the last entry at which this leader saw each as it should be
        self._ranges: dict[ReplicaId, ReplicaHash] = {}  # of whom RV602 stands
        self._asked: list[asyncio.Future[Comparison]] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None

    # --- every replica

    def checksum_applied(self, at: EntryId) -> None:
        """A checksum entry was applied, and nothing after it. Raises what Store does where nothing can be done any more."""
        hashing = self._store.hash_applied()
        self._keep(HashAt(at.index, at.term))
        hashing.add_done_callback(partial(self._hashed, at))

    def _hashed(self, at: EntryId, hashing: asyncio.Future[StateHash]) -> None:
        if hashing.cancelled():
            return
        error = hashing.exception()
        if isinstance(error, StoreError) and not isinstance(error, DamagedError):
            self._keep(HashAt(at.index, at.term, problem=str(error)))
        elif error is not None:
            self._failure = error
            self._wake.set()
        else:
            self.last = hashing.result()
            self._keep(HashAt(at.index, at.term, self.last.sha256))

    def _keep(self, found: HashAt) -> None:
        self._kept[found.index] = found
        for index in list(self._kept)[:-KEPT]:
            del self._kept[index]

    def state_hashes(self) -> StateHashes:
        """What became of the last checksum entries here."""
        return StateHashes(self._replica.applied.index, tuple(self._kept.values()))

    # --- the leader

    async def compare_now(self) -> Comparison:
        """Have all replicas hash their states at one entry, and compare.

        Raises NotLeaderError, UnsupportedVersionError, and what `propose` does.
        """
        self._check()
        done: asyncio.Future[Comparison] = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        self._wake.set()
        return await done

    def _check(self) -> None:
        self._replica.check_leader()
        require_known(Kind.CHECKSUM, [member.record for member in self._replica.members()])

    def end(self, why: ReplicaError) -> None:
        """Nobody compares any more."""
        asked, self._asked = self._asked, []
        for done in asked:
            if not done.done():
                done.set_exception(why)

    async def run(self) -> None:
        """Compare when somebody asks and when it is due. Raises what must stop the replica: a state that cannot be read."""
        led, due = Term(0), 0.0
        interval_s = self._replica.options.checksum_interval_s
        while True:
            await self._woken()
            if not self._replica.is_leader:
                led = Term(0)
                self._ranges.clear()
                self.end(self._replica.not_leader())
                continue
            if self._replica.term != led:
                led, due = self._replica.term, self._clock() + interval_s
                await self._compare_kept()
            if self._asked:
                await self._answer()
            elif interval_s and self._clock() >= due:
                with suppress(ReplicaError):  # not all members know how, or leadership was lost: there will be another time
                    await self._round()
                due = self._clock() + interval_s

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_S):
                await self._wake.wait()
        self._wake.clear()
        if self._failure is not None:
            raise self._failure

    async def _answer(self) -> None:
        """One comparison for all who have asked by now."""
        asked, self._asked = self._asked, []
        try:
            found = await self._round()
        except ReplicaError as error:
            for done in asked:
                if not done.done():
                    done.set_exception(error)
        else:
            for done in asked:
                if not done.done():
                    done.set_result(found)
        finally:
            self._asked += [done for done in asked if not done.done()]  # cancelled in the middle: `end` answers them

    async def _round(self) -> Comparison:
        self._check()
        (outcome,) = await self._replica.propose(envelope.group([envelope.checksum()]), 1, grows=False)
        index, term = Index(outcome.revision), self._replica.term
        ids = [member.record.replica_id for member in self._replica.members()]
        answers = await asyncio.gather(*(self._answer_of(replica_id, index) for replica_id in ids))
        if self._replica.term != term or not self._replica.is_leader:
            raise self._replica.not_leader()
        return self._settle(index, compare(index, dict(zip(ids, answers, strict=True))))

    async def _compare_kept(self) -> None:
        """What a new leader sees without a new entry: alarms that the old leader had raised come back."""
        own = [one.index for one in self._kept.values() if one.sha256]
        if not own:
            return
        ids = [member.record.replica_id for member in self._replica.members()]
        answers = dict(zip(ids, await asyncio.gather(*map(self._ask_once, ids)), strict=True))
        if self._replica.is_leader:
            self._settle(own[-1], compare(own[-1], answers))

    async def _ask(self, replica_id: ReplicaId) -> StateHashes:
        if replica_id == self._replica.id:
            return self.state_hashes()
        return await self._transport.state_hashes(replica_id, ASK_TIMEOUT_S)

    async def _ask_once(self, replica_id: ReplicaId) -> StateHashes | str:
        try:
            return await self._ask(replica_id)
        except ProbeFailedError as error:
            return str(error)

    async def _answer_of(self, replica_id: ReplicaId, index: Index) -> StateHashes | str:
        """What a replica has, once it has done with this entry; a text: why it is not waited for any longer."""
        began, pause_s = self._clock(), POLL_MIN_S
        while True:
            found = await self._ask_once(replica_id)
            waited_s = self._clock() - began
            if (why := self._why_not_wait(replica_id, index, found, waited_s)) is not None:
                return why or found
            if not self._replica.is_leader:
                return "leadership was lost"
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, POLL_MAX_S)

    def _why_not_wait(self, replica_id: ReplicaId, index: Index, found: StateHashes | str, waited_s: float) -> str | None:
        """None: ask again. Empty: it has done with the entry."""
        if isinstance(found, str):
            away = replica_id not in self._replica.health().live
            return found if away or waited_s > REACH_S else None
        entry = next((one for one in found.hashes if one.index == index), None)
        if entry is not None:
            if entry.sha256 or entry.problem:
                return ""
            return f"it has not finished its hash within {HASH_S:.0f} s" if waited_s > HASH_S else None
        if found.applied_index >= index:
            return ""
        behind = f"it has applied entry {found.applied_index} and not yet {index}"
        return behind if waited_s > CATCH_UP_S else None

    # --- what comes of it

    def _settle(self, at: Index, compared: Sequence[ReplicaHash]) -> Comparison:
        """Raise an alarm for each replica that differs; clear it for who agrees, or is no member any more."""
        found = Comparison(EntryId(self._kept[at].term, at), tuple(self._remembered(one, at) for one in compared))
        for one in found.replicas:
            if one.differs:
                self._ranges[one.replica_id] = one
                self._alarms.raise_alarm(DIVERGED, self._in_words(one, found), one.replica_id)
            elif one.sha256:
                self._agreed[one.replica_id] = max(at, self._agreed.get(one.replica_id, at))
                self._clear(one.replica_id)
        for gone in self._ranges.keys() - {one.replica_id for one in found.replicas}:
            self._clear(gone)
        return found

    def _remembered(self, one: ReplicaHash, at: Index) -> ReplicaHash:
        """With what was seen before, of which replicas forget the most when they restart."""
        if not one.differs:
            return one
        known = self._ranges.get(one.replica_id)
        agreed = self._agreed.get(one.replica_id, NO_INDEX)
        if known is not None:
            return replace(one, agreed_index=known.agreed_index, differed_index=known.differed_index)
        if one.agreed_index < agreed < at:
            return replace(one, agreed_index=agreed, differed_index=max(one.differed_index, at))
        return one

    def _clear(self, replica_id: ReplicaId) -> None:
        self._ranges.pop(replica_id, None)
        self._alarms.clear_alarm(DIVERGED, replica_id)

    def _in_words(self, one: ReplicaHash, found: Comparison) -> str:
        own = next(each.sha256 for each in found.replicas if each.replica_id == one.replica_id)
        others = " ".join(self._name_of(each.replica_id) for each in found.replicas if each.sha256 not in (b"", own))
        before = f"they were equal at entry {one.agreed_index}" if one.agreed_index else "no earlier comparison is known"
        return (
            f"the state of {self._name_of(one.replica_id)} is not that of {others} at entry {one.differed_index}; {before}, "
            f"and the newest that was compared is {found.at.index}"
        )
