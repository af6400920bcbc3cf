"""The log in memory and on the disk: what is kept of it in memory is counted right however it grows, is cut, and grows again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.raft.errors import CompactedError, InvariantError, UnavailableError
from ravel_node.raft.storage import entry_size
from ravel_node.raft.types import NO_LIMIT, ConfState, Entry, EntryId, HardState, Index, ReplicaId, Snapshot, Term
from ravel_node.storage.base import Identity, Save
from ravel_node.storage.keys import RAFT_DATABASES
from ravel_node.storage.log_store import Birth, LogStore
from ravel_node.storage.memory import MemoryEnvironment, Records
from tests.storage.support import at, hard_state

TAIL_MAX = 400
SERVER = Identity("a" * 32)


async def opened(tail_bytes_max: int = TAIL_MAX, compact_records_max: int = 3) -> LogStore:
    databases = {name: Records(many) for name, many in RAFT_DATABASES.items()}
    environment = MemoryEnvironment("raft", databases, 0)
    await LogStore.create(environment, Birth(SERVER, at(0, 0), HardState(), 1))
    return LogStore(environment, tail_bytes_max=tail_bytes_max, compact_records_max=compact_records_max)


class Model:
    """The log as a plain list."""

    def __init__(self) -> None:
        self.base = at(0, 0)
        self.entries: list[Entry] = []
        self.term = 1

    @property
    def last(self) -> int:
        return self.entries[-1].index if self.entries else self.base.index

    def written(self, first: int, sizes: list[int]) -> list[Entry]:
        """The entries of a save that begins at `first`; what was there goes."""
        fresh = [Entry(Term(self.term), Index(first + n), data=b"d" * size) for n, size in enumerate(sizes)]
        self.entries = [entry for entry in self.entries if entry.index < first] + fresh
        return fresh


sizes = st.lists(st.integers(0, 150), min_size=1, max_size=6)
steps = st.one_of(
    st.tuples(st.just("append"), sizes, st.just(0)),
    st.tuples(st.just("replace"), sizes, st.integers(0, 12)),
    st.tuples(st.just("two saves"), sizes, st.integers(0, 12)),
    st.tuples(st.just("compact"), st.just([0]), st.integers(0, 20)),
    st.tuples(st.just("install"), sizes, st.integers(1, 5)),
    st.tuples(st.just("begin again"), st.just([0]), st.integers(1, 5)),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(steps, max_size=25))
def test_what_is_in_memory_is_counted_and_bounded_whatever_happens(script: list[tuple[str, list[int], int]]) -> None:
    asyncio.run(_run(script))


async def _run(script: list[tuple[str, list[int], int]]) -> None:
    log, model = await opened(), Model()
    for step, lengths, number in script:
        model.term += 1
        last = model.last
        if step == "append":
            await log.save([Save(model.written(last + 1, lengths))])
        elif step == "replace":
            first = max(model.base.index + 1, last + 1 - number)
            await log.save([Save(model.written(first, lengths))])
        elif step == "two saves":
            first = max(model.base.index + 1, last + 1 - number)
            saves = [Save(model.written(first, lengths)), Save(model.written(model.last, [7]), hard_state(model.term, 0))]
            await log.save(saves)
        elif step == "compact":
            to = Index(min(last, model.base.index + number))
            while await log.compact_step(to):
                check(log, model, compacted=True)
            gone = [entry for entry in model.entries if entry.index <= to]
            if gone:
                model.base, model.entries = gone[-1].id, model.entries[len(gone) :]
        elif step == "install":
            model.base, model.entries = EntryId(Term(model.term), Index(last + number)), []
            snapshot = Snapshot(model.base.index, model.base.term, ConfState(voters=(ReplicaId(1),)))
            await log.save([Save(snapshot=snapshot), Save(model.written(model.last + 1, lengths))], 2)
        else:
            model.base, model.entries = EntryId(Term(model.term), Index(number)), []
            await log.birth(Birth(SERVER, model.base, HardState(), 3))
        check(log, model)
        again = LogStore(log.environment, tail_bytes_max=TAIL_MAX, compact_records_max=3)
        assert (again.base, again.last, again.hard_state) == (log.base, log.last, log.hard_state)


def check(log: LogStore, model: Model, *, compacted: bool = False) -> None:
    tail = log._tail
    assert log._tail_bytes == sum(map(entry_size, tail))
    assert log._tail_bytes <= TAIL_MAX or len(tail) == 1
    assert [entry.index for entry in tail] == list(range(log.last_index() + 1 - len(tail), log.last_index() + 1))
    if compacted:
        return
    assert (log.base, log.last_index()) == (model.base, model.last)
    first, end = Index(model.base.index + 1), Index(model.last + 1)
    assert list(log.entries(first, end, NO_LIMIT)) == model.entries
    assert [log.term(entry.index) for entry in model.entries] == [entry.term for entry in model.entries]
    assert log.term(model.base.index) == model.base.term
    with pytest.raises(UnavailableError):
        log.term(end)
    if model.base.index:
        with pytest.raises(CompactedError):
            log.term(Index(model.base.index - 1))


async def test_the_bound_is_reached_left_and_reached_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the newest entries, and no older ones than fit, are read without the disk."""
    log = await opened(tail_bytes_max=1_000, compact_records_max=1_000)
    reads: list[Any] = []
    real = log._read

    def counted(*arguments: Any) -> list[Entry]:
        reads.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(log, "_read", counted)
    size = entry_size(Entry(Term(1), Index(1), data=b"d" * 84))
    fits = 1_000 // size
    assert fits >= 8

    async def fill(term: int, count: int) -> None:
        for _ in range(count):
            await log.save([Save([Entry(Term(term), Index(log.last_index() + 1), data=b"d" * 84)])])

    for term in (1, 2, 3):
        await fill(term, 3 * fits)
        assert len(log._tail) <= fits
        assert len(log._tail) >= fits * 3 // 4, "what fits three quarters of the bound stays"
        reads.clear()
        newest = Index(log.last_index() + 1 - len(log._tail))
        assert len(log.entries(newest, Index(log.last_index() + 1), NO_LIMIT)) == len(log._tail)
        log.term(newest)
        assert reads == []
        log.entries(Index(newest - 1), newest, NO_LIMIT)
        assert len(reads) == 1
        if term == 1:
            await log.compact_step(log.last_index())  # all of it goes
            assert (log._tail, log._tail_bytes) == ([], 0)
        elif term == 2:
            await log.save([Save([Entry(Term(9), Index(log.first_index()), data=b"")])])  # all but one
            assert len(log._tail) == 1


async def test_an_entry_that_is_larger_than_the_bound_is_kept_alone() -> None:
    log = await opened(tail_bytes_max=100)
    for index in range(1, 4):
        await log.save([Save([Entry(Term(1), Index(index), data=b"d" * 500)])])
        assert [entry.index for entry in log._tail] == [index]
    assert [entry.index for entry in log.entries(Index(1), Index(4), NO_LIMIT)] == [1, 2, 3]


async def test_a_bound_of_nothing_keeps_one_entry() -> None:
    log = await opened(tail_bytes_max=0)
    await log.save([Save([Entry(Term(1), Index(index), data=b"d") for index in range(1, 6)])])
    assert [entry.index for entry in log._tail] == [5]
    assert log._tail_bytes == entry_size(log._tail[0])


async def test_compaction_drops_as_many_as_one_transaction_may_and_says_whether_more_are_left() -> None:
    log = await opened(compact_records_max=3)
    await log.save([Save([Entry(Term(1), Index(index), data=b"d") for index in range(1, 11)])])
    assert not await log.compact_step(Index(0))
    assert log.first_index() == 1
    for first, more in ((4, True), (7, True), (8, False)):
        assert await log.compact_step(Index(7)) == more
        assert log.first_index() == first
    assert not await log.compact_step(Index(7))
    with pytest.raises(InvariantError, match="beyond the last entry"):
        await log.compact_step(Index(11)) and await log.compact_step(Index(11))


async def test_what_is_read_while_a_compaction_is_written_lies_behind_it() -> None:
    """Nothing reads what is about to be dropped: the log shows its new beginning before the disk does."""
    log = await opened(compact_records_max=100)
    await log.save([Save([Entry(Term(1), Index(index), data=b"d") for index in range(1, 11)])])
    compacting = asyncio.create_task(log.compact_step(Index(5)))
    await asyncio.sleep(0)
    assert log.first_index() == 6
    with pytest.raises(CompactedError):
        log.entries(Index(5), Index(7), NO_LIMIT)
    await compacting


async def test_the_newest_hard_state_of_one_call_counts() -> None:
    log = await opened()
    one, other = hard_state(1, 1), hard_state(2, 0)
    await log.save([Save(hard_state=one), Save([Entry(Term(2), Index(1))], other), Save([Entry(Term(2), Index(2))])])
    assert log.hard_state == other
    again = LogStore(log.environment, tail_bytes_max=0, compact_records_max=1)
    assert again.hard_state == other
