"""Every change from any revision that the log reaches back to: against a model, and in whole replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.slots import MovedKey, SlotsCommand, encode_step
from ravel_node.machine.slots import Step as SlotsStep
from ravel_node.raft import CompactedError, Entry, EntryType, Index, Term
from ravel_node.replica.errors import ReplicaBusyError, RevisionCompactedError
from ravel_node.replica.feed import Feed, Position
from ravel_node.replica.options import ReplicaOptions
from ravel_node.storage.base import Store
from ravel_node.storage.store import DiskStore
from ravelpb.slots import SLOT_COUNT, slot_of
from tests.machine.helpers import Cluster as Machine
from tests.machine.helpers import voters
from tests.machine.memory_txn import MemoryState
from tests.machine.model import Model, Step, encode, steps
from tests.replica.cluster import cluster_of, until
from tests.replica.virtual import virtual

Told = list[tuple[int, bytes, bytes | None]]
"""Revision, key, new value."""


class Log:
    """The read side of a store: a machine's state, and the entries that made it."""

    def __init__(self) -> None:
        self.cluster = Machine()
        self.first = 2
        self.log: list[Entry] = []
        self.reads = 0

    def reader(self) -> MemoryState:
        self.cluster.state.applied = self.cluster.state.applied._replace(index=Index(self.cluster.index))
        return self.cluster.state

    def first_index(self) -> Index:
        return Index(self.first)

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        if first < self.first:
            raise CompactedError
        found = self.log[first - 2 : end - 2]
        self.reads += len(found)
        return found[: max(1, bytes_max // 100)]

    def append(self, *commands: bytes) -> None:
        payload = envelope.payload([envelope.group(commands)])
        self.cluster.run(*commands)
        self.log.append(Entry(Term(1), Index(self.cluster.index), EntryType.NORMAL, payload))

    def change(self) -> None:
        self.cluster.change(voters(1))
        self.log.append(Entry(Term(1), Index(self.cluster.index), EntryType.CONF_CHANGE, b""))

    @property
    def feed(self) -> Feed:
        return Feed(cast(Store, self))


def told(feed: Feed, revision: int, bytes_max: int = 1 << 20) -> Told:
    """All changes from `revision` on, as a watcher would read them."""
    position = feed.seek(revision)
    found: Told = []
    while position.index < feed.head().index:
        for step in feed.read(position, bytes_max):
            assert step.index == position.index
            for at, changes in enumerate(step.changes, step.before + 1):
                found += [(at, key, value) for key, value in changes if at >= revision]
            position = step.next
    return found


def model_of(log: list[list[Step]]) -> tuple[Told, int]:
    model, expected = Model(), list[tuple[int, bytes, bytes | None]]()
    for step in (step for entry in log for step in entry):
        before, revision = dict(model.pairs), model.revision
        model.run(step)
        if model.revision != revision:
            keys = [arguments[0] for arguments in step[1][1]] if step[0] == "write" else [step[1][0]]
            expected += [
                (model.revision, key, model.pairs[key][1] if key in model.pairs else None)
                for key in keys
                if model.pairs.get(key) != before.get(key)
            ]
    return expected, model.revision


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(steps(), max_size=4), min_size=1, max_size=30), st.integers(0, 200), st.integers(1, 40), st.integers(0, 160)
)
def test_a_watch_from_any_revision_is_told_what_the_model_did(
    log: list[list[Step]], idle_entries: int, revision: int, compacted: int
) -> None:
    """Idle entries shift where anchors stand; compaction takes some of the log away."""
    store = Log()
    for _ in range(idle_entries % 70):
        store.append(envelope.delete(b"missing"))
    for at, entry in enumerate(log):
        store.append(*map(encode, entry))
        if at % 5 == 4:
            store.change()
        for _ in range(idle_entries % 23):
            store.append()
    store.first = min(2 + compacted, store.cluster.index + 1)
    expected, last = model_of(log)
    feed = store.feed
    first = feed.oldest().revision + 1
    if revision < first:
        with pytest.raises(RevisionCompactedError) as raised:
            feed.seek(revision)
        assert raised.value.first_revision == first
        revision = first
    if not compacted:
        assert first == 1
    assert told(feed, revision, 100) == [change for change in expected if change[0] >= revision]
    assert feed.head().revision == last


def test_seeking_reads_the_log_only_from_the_anchor_before() -> None:
    store = Log()
    for _ in range(1_000):
        store.append(*[envelope.put(b"k", b"v")] * 3)
    feed = store.feed
    feed.oldest()
    store.reads = 0
    position = feed.seek(2_000)
    assert store.reads == 0
    assert position.revision < 2_000 <= position.revision + 3 * 64


def test_a_revision_to_come_is_found_at_the_head() -> None:
    store = Log()
    store.append(envelope.put(b"k", b"v"))
    assert store.feed.seek(2) == store.feed.head() == Position(Index(3), 1)
    assert store.feed.seek(1_000) == store.feed.head()


def test_a_log_that_begins_behind_the_state_is_a_snapshot_on_its_way() -> None:
    store = Log()
    store.append(envelope.put(b"k", b"v"))
    store.first = 10
    with pytest.raises(ReplicaBusyError):
        store.feed.seek(1)
    with pytest.raises(ReplicaBusyError):
        list(store.feed.read(Position(Index(2), 0), 100))


def first_of(store: DiskStore) -> int:
    return Feed(store).oldest().revision + 1


@virtual
async def test_a_restart_loses_nothing_and_compaction_says_what_it_took(tmp_path: Path) -> None:
    options = ReplicaOptions(tick_s=0.01, heartbeat_ticks=2, election_ticks=10, log_retain_entries=50)
    async with cluster_of(tmp_path, 1, options=options) as cluster:
        node = await cluster.leader()
        for number in range(40):
            await node.put(b"k%d" % (number % 7), b"%d" % number)
        before = told(node.replica.feed, 1)
        assert [revision for revision, _, _ in before] == list(range(1, 41))
        await node.crash()
        await node.restart()
        await cluster.leader()
        assert told(node.replica.feed, 1) == before
        for number in range(400):
            await node.put(b"more", b"%d" % number)
        await until("the log is compacted", lambda: node.store.first_index() > 200)
        first = first_of(node.store)
        assert first > 150
        assert [value for _, _, value in told(node.replica.feed, first)] == [b"%d" % number for number in range(first - 41, 400)]
        with pytest.raises(RevisionCompactedError) as raised:
            node.replica.feed.seek(first - 1)
        assert raised.value.first_revision == first
        await node.stop()
        await node.restart()
        await cluster.leader()
        assert first_of(node.store) >= first


@virtual
async def test_after_a_snapshot_was_installed_the_past_begins_behind_it(tmp_path: Path) -> None:
    options = ReplicaOptions(tick_s=0.01, heartbeat_ticks=2, election_ticks=10, log_retain_entries=10)
    async with cluster_of(tmp_path, 3, options=options) as cluster:
        leader = await cluster.leader()
        away = (await cluster.followers())[0]
        await leader.put(b"a", b"1")
        await cluster.converged()
        cluster.isolate(away)
        for number in range(400):
            await leader.put(b"b", b"%d" % number)
        await until("the log is compacted", lambda: leader.store.first_index() > 200)
        await leader.write(envelope.delete(b"missing"), envelope.get_and_delete(b"a"))
        cluster.network.heal()
        await cluster.converged()
        assert away.store.first_index() > 200
        first = first_of(away.store)
        assert told(away.replica.feed, first) == told(leader.replica.feed, first)
        await leader.put(b"c", b"3")
        await cluster.converged()
        assert told(away.replica.feed, 403) == [(403, b"c", b"3")]


def test_an_import_raises_the_revision_without_an_event_and_counting_goes_on() -> None:
    log = Log()
    slot = slot_of(b"moved")
    log.append(slots_step(SlotsStep.OWN, 1, slots=tuple(range(SLOT_COUNT - 1)), map_version=1), envelope.put(b"a", b"1"))
    log.append(
        slots_step(SlotsStep.EXPORT, 3, slots=(slot,)),
        slots_step(SlotsStep.FREEZE, 3),
        slots_step(SlotsStep.RELEASE, 3, map_version=2),
    )
    log.append(slots_step(SlotsStep.PURGE, 3, last=True))
    log.append(envelope.put(b"a", b"2"), slots_step(SlotsStep.IMPORT, 5, slots=(slot,), revision=700), envelope.put(b"b", b"1"))
    for number in range(100):  # past an anchor
        log.append(envelope.put(b"a", b"%d" % number))
    log.append(slots_step(SlotsStep.IMPORT_CHUNK, 5, chunk=1, keys=(MovedKey(b"moved", b"m", 880),), revision=900))
    log.append(envelope.put(b"a", b"end"))
    early = [(1, b"a", b"1"), (2, b"a", b"2"), (3, b"b", b"1")]
    middle = [(701 + number, b"a", b"%d" % number) for number in range(100)]
    events = [*early, *middle, (901, b"a", b"end")]
    for revision in (1, 2, 3, 4, 500, 700, 701, 760, 800, 801, 850, 900, 901):
        assert told(log.feed, revision) == [event for event in events if event[0] >= revision]
    for first in (5, 6, 7, 70, len(log.log) + 1):  # counted back to a first entry, over raises and anchors
        log.first = first
        oldest = log.feed.oldest()
        assert oldest.index == first
        assert told(log.feed, oldest.revision + 1) == [event for event in events if event[0] > oldest.revision]
    assert [log.feed.oldest().revision] == [900]


def slots_step(kind: SlotsStep, move: int, **fields: Any) -> bytes:
    return envelope.slots(encode_step(SlotsCommand(kind, move, **fields)))
