"""Leaving a cluster that cannot let anybody go: told early, and only once it is sure."""

from __future__ import annotations

import asyncio

import pytest

from ravelctl.client.errors import DeadlineError, NoLeaderError
from ravelctl.client.services import leaving
from ravelctl.client.services.leaving import NoQuorumError
from ravelpb.v1 import admin_pb2, cluster_pb2
from ravelpb.v1.common_pb2 import ServerRef
from tests.replica.virtual import virtual

MARKED = admin_pb2.MarkLeavingResponse()


def status(number: int, *voters: int, config_index: int = 1) -> cluster_pb2.StatusResponse:
    members = [cluster_pb2.Member(server=ServerRef(server_id=f"{n}", name=f"n{n}"), role=cluster_pb2.VOTER) for n in voters]
    return cluster_pb2.StatusResponse(server=ServerRef(server_id=f"{number}"), members=members, config_index=config_index)


@pytest.mark.parametrize(
    "found",
    [
        [],
        [status(1, 1, 2, 3)],
        [status(1, 1, 2), status(9, 1, 2)],
        [status(1, 1), status(2, 1, 2, 3, 4, config_index=7)],
    ],
    ids=["nobody", "one of three", "one of two and a learner", "by the newest membership"],
)
def test_too_few_answer(found: list[cluster_pb2.StatusResponse]) -> None:
    with pytest.raises(NoQuorumError, match="has no quorum"):
        leaving._check_quorum(found)


@pytest.mark.parametrize("found", [[status(1, 1)], [status(1, 1, 2, 3), status(2, 1, 2, 3)]], ids=["one of one", "two of three"])
def test_enough_answer_for_an_election(found: list[cluster_pb2.StatusResponse]) -> None:
    leaving._check_quorum(found)


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What each attempt comes to, one after the other; then it succeeds."""
    errors: list[Exception] = []

    async def take_out(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(leaving, "_take_out", take_out)
    return errors


@virtual
async def test_a_cluster_that_stays_without_quorum_is_told_early(takes: list[Exception]) -> None:
    loop = asyncio.get_running_loop()
    takes += [NoQuorumError("no quorum")] * 10_000
    with pytest.raises(NoQuorumError):
        await leaving._until(loop.time() + 60.0, MARKED, dry_run=True, tls=None)
    assert loop.time() == pytest.approx(5.0, abs=0.2)
    assert 10_000 - len(takes) == pytest.approx(5.0 / leaving.LOOK_S, abs=2)


@virtual
async def test_the_time_of_the_caller_is_kept(takes: list[Exception]) -> None:
    loop = asyncio.get_running_loop()
    takes += [NoLeaderError("none yet")] * 10_000
    with pytest.raises(DeadlineError, match="has not left yet: none yet"):
        await leaving._until(loop.time() + 20.0, MARKED, dry_run=True, tls=None)
    assert loop.time() == pytest.approx(20.0, abs=0.2)


@virtual
async def test_one_that_is_without_for_a_moment_is_waited_for(takes: list[Exception]) -> None:
    takes += [NoQuorumError("no quorum"), NoLeaderError("none yet"), NoQuorumError("no quorum")]
    await leaving._until(asyncio.get_running_loop().time() + 60.0, MARKED, dry_run=True, tls=None)
    assert takes == []
