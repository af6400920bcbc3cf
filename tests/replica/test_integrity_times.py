"""One comparison of hashes, step by step: who is waited for and how long, and what ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ravel_node.machine.base import Outcome, Status
from ravel_node.raft import ConfState, EntryId, Index, ReplicaId, Term
from ravel_node.replica.errors import LeadershipLostError, NotLeaderError, ReplicaError
from ravel_node.replica.integrity import KEPT, Comparison, Integrity
from ravel_node.replica.verdict import Health
from ravel_node.storage.base import DamagedError, StateHash, Store, StoreError
from ravel_node.transport.base import HashAt, ProbeFailedError, StateHashes, Transport
from tests.replica.cluster import OPTIONS, record
from tests.replica.virtual import virtual

ONE, TWO, THREE = (ReplicaId(number) for number in (1, 2, 3))
TERM = Term(4)


class World:
    """Replica 1, which leads, with a store and two peers that say what the test wants."""

    def __init__(self, *, checksum_interval_s: float = 0.0) -> None:
        self.options = replace(OPTIONS, checksum_interval_s=checksum_interval_s)
        self.id = ONE
        self.term = TERM
        self.applied = EntryId(TERM, Index(9))
        self.is_leader = True
        self.live = {ONE, TWO, THREE}
        self.hashing: asyncio.Future[StateHash] | None = None  # what the store answers next; None: a hash at once
        self.peers: dict[ReplicaId, Callable[[], StateHashes]] = {TWO: self.done, THREE: self.done}
        self.alarms: set[tuple[str, ReplicaId]] = set()
        self.integrity = Integrity(
            self,
            store=cast(Store, self),
            transport=cast(Transport, SimpleNamespace(state_hashes=self._ask)),
            alarms=self,
            name_of=lambda replica_id: f"n{replica_id}",
            clock=asyncio.get_running_loop().time,
        )
        self.running = asyncio.create_task(self.integrity.run())

    # --- the leader's seat

    def members(self) -> Sequence[Any]:
        return [SimpleNamespace(record=record(number)) for number in (1, 2, 3)]

    def health(self) -> Health:
        return Health(ConfState(voters=(ONE, TWO, THREE)), frozenset(self.live), frozenset(self.live))

    def check_leader(self) -> None:
        if not self.is_leader:
            raise self.not_leader()

    def not_leader(self) -> NotLeaderError:
        return NotLeaderError(TWO, "n2:7400")

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]:
        assert not grows
        self.applied = EntryId(self.term, Index(self.applied.index + 1))
        self.integrity.checksum_applied(self.applied)
        return [Outcome(Status.OK, self.applied.index)]

    # --- store, peers and alarms

    def hash_applied(self) -> asyncio.Future[StateHash]:
        if self.hashing is not None:
            return self.hashing
        done: asyncio.Future[StateHash] = asyncio.get_running_loop().create_future()
        done.set_result(cast(StateHash, SimpleNamespace(sha256=b"same")))
        return done

    async def _ask(self, peer: ReplicaId, timeout_s: float) -> StateHashes:
        assert 0 < timeout_s < 60
        await asyncio.sleep(0)
        return self.peers[peer]()

    def done(self) -> StateHashes:
        return self.says(b"same")

    def says(self, sha256: bytes, problem: str = "") -> StateHashes:
        return StateHashes(self.applied.index, (HashAt(self.applied.index, self.term, sha256, problem),))

    def raise_alarm(self, code: str, message: str, subject: ReplicaId) -> None:
        self.alarms.add((code, subject))

    def clear_alarm(self, code: str, subject: ReplicaId) -> None:
        self.alarms.discard((code, subject))

    # --- what the tests ask

    async def compared(self) -> tuple[Comparison, float]:
        """A comparison, and how long it took."""
        began = asyncio.get_running_loop().time()
        found = await self.integrity.compare_now()
        return found, asyncio.get_running_loop().time() - began

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


def problems(found: Comparison) -> dict[int, str]:
    return {one.replica_id: one.problem for one in found.replicas if one.problem}


@virtual
async def test_an_answer_of_all_is_a_comparison() -> None:
    world = World()
    world.peers[THREE] = lambda: world.says(b"other")
    found, took_s = await world.compared()
    assert [(one.replica_id, one.sha256, one.differs) for one in found.replicas] == [
        (1, b"same", False), (2, b"same", False), (3, b"other", True)
    ]  # fmt: skip
    assert took_s < 2.0
    assert world.alarms == {("RV602", THREE)}
    await world.end()


@pytest.mark.parametrize("lost", ["the leadership", "the term"])
@virtual
async def test_leadership_that_is_lost_while_peers_are_asked_ends_the_comparison(lost: str) -> None:
    """Its answers may be of two terms: nobody is accused on their ground."""
    world = World()

    def answer() -> StateHashes:
        if lost == "the leadership":
            world.is_leader = False
        else:
            world.term = Term(TERM + 2)  # it was lost and won again
        return StateHashes(world.applied.index, (HashAt(world.applied.index, TERM, b"other"),))

    world.peers[THREE] = answer
    with pytest.raises(NotLeaderError):
        await world.compared()
    assert world.alarms == set()
    await world.end()


@virtual
async def test_who_asked_is_answered_when_leadership_goes_before_the_comparison_begins() -> None:
    world = World()
    asked = asyncio.create_task(world.integrity.compare_now())
    await asyncio.sleep(0)
    world.is_leader = False
    with pytest.raises(NotLeaderError):
        await asyncio.wait_for(asked, 10)
    await world.end()


@virtual
async def test_who_asked_is_answered_when_the_replica_ends_in_the_middle() -> None:
    world = World()
    world.peers[TWO] = lambda: StateHashes(Index(0), ())  # it never comes to the entry
    asked = asyncio.create_task(world.integrity.compare_now())
    await asyncio.sleep(5)
    await world.end()
    assert not asked.done()
    world.integrity.end(LeadershipLostError())
    with pytest.raises(ReplicaError):
        await asyncio.wait_for(asked, 1)


@virtual
async def test_a_replica_that_is_behind_is_waited_for_and_not_for_ever() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    began = loop.time()
    world.peers[TWO] = lambda: world.done() if loop.time() - began > 25 else StateHashes(Index(3), ())
    found, took_s = await world.compared()
    assert problems(found) == {}
    assert 25 < took_s < 30
    world.peers[TWO] = lambda: StateHashes(Index(3), ())
    found, took_s = await asyncio.wait_for(world.compared(), 300)
    assert problems(found) == {2: f"it has applied entry 3 and not yet {found.at.index}"}
    assert 30 < took_s < 35
    assert world.alarms == set()
    await world.end()


@virtual
async def test_a_hash_that_is_being_made_is_waited_for_and_not_for_ever() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    began = loop.time()
    world.peers[TWO] = lambda: world.says(b"same" if loop.time() - began > 800 else b"")
    found, took_s = await world.compared()
    assert problems(found) == {}
    assert 800 < took_s < 900
    world.peers[TWO] = lambda: world.says(b"")
    found, took_s = await asyncio.wait_for(world.compared(), 2_700)
    assert problems(found) == {2: "it has not finished its hash within 900 s"}
    await world.end()


@virtual
async def test_a_live_replica_that_does_not_answer_is_asked_again_and_one_that_is_away_is_not() -> None:
    world = World()
    asked: list[float] = []

    def fail() -> StateHashes:
        asked.append(asyncio.get_running_loop().time())
        raise ProbeFailedError("no replica answers")

    world.peers[TWO] = fail
    world.live = {ONE, THREE}
    found, _ = await world.compared()
    assert (problems(found), len(asked)) == ({2: "no replica answers"}, 1)
    world.live = {ONE, TWO, THREE}
    found, took_s = await asyncio.wait_for(world.compared(), 60)
    assert problems(found) == {2: "no replica answers"}
    assert len(asked) > 3
    assert took_s < 10
    await world.end()


@virtual
async def test_a_hash_that_the_store_gave_up_is_a_problem_of_this_entry_alone() -> None:
    world = World()
    world.hashing = asyncio.get_running_loop().create_future()
    world.hashing.set_exception(StoreError("a snapshot took the place of the state"))
    found, _ = await world.compared()
    assert problems(found) == {1: "a snapshot took the place of the state"}
    world.hashing = None
    found, _ = await world.compared()
    assert problems(found) == {}
    assert not world.running.done()
    await world.end()


@pytest.mark.parametrize("error", [DamagedError("key 6b is damaged"), OSError("input/output error")], ids=["damage", "disk"])
@virtual
async def test_a_state_that_cannot_be_read_stops_the_replica(error: Exception) -> None:
    world = World()
    world.hashing = asyncio.get_running_loop().create_future()
    world.hashing.set_exception(error)
    world.integrity.checksum_applied(EntryId(TERM, Index(10)))
    done, _ = await asyncio.wait([world.running], timeout=10)
    assert done, "the error was swallowed"
    assert world.running.exception() is error


@virtual
async def test_a_comparison_is_due_every_so_often_and_a_refusal_does_not_end_that() -> None:
    world = World(checksum_interval_s=60.0)
    begun = world.applied.index
    await asyncio.sleep(30)
    assert world.applied.index == begun, "not at once"
    await asyncio.sleep(33)
    assert world.applied.index == begun + 1
    world.peers[TWO] = lambda: (_ for _ in ()).throw(ProbeFailedError("away"))
    await asyncio.sleep(3_000)
    assert begun + 40 < world.applied.index < begun + 52
    assert len(world.integrity.state_hashes().hashes) == KEPT
    await world.end()
