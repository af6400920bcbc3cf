"""Whole clusters under faults: every invariant after every step, and progress once the faults are over.

G1 election safety, G2 leader append-only, G3 log matching, G4 leader completeness, G5 state machine safety, G6
durability, G7 monotony, G8 bounds, G9 liveness, G10 read safety: see `cluster.Checker`. RAVEL_SEEDS=1000 looks further
than a short run.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.raft.cluster import Cluster

SEEDS = int(os.environ.get("RAVEL_SEEDS", "60"))


def chosen(seed: int) -> dict[str, Any]:
    """A shape of cluster and settings, drawn from the seed as well."""
    random = Random(seed)
    return {
        "size": random.choice([1, 2, 3, 3, 5]),
        "learners": random.choice([0, 0, 1]),
        "spare": random.choice([0, 1]),
        "async_storage_writes": random.random() < 0.6,
        "pre_vote": random.random() < 0.5,
        "check_quorum": random.random() < 0.5,
        "message_bytes_max": random.choice([30, 1000, 1 << 20]),
        "committed_bytes_max": random.choice([1, 60, 1 << 20]),
        "uncommitted_bytes_max": random.choice([20, 1 << 20]),
        "inflight_messages_max": random.choice([1, 3, 256]),
    }


@pytest.mark.parametrize("seed", range(SEEDS))
def test_safe_under_faults_and_live_after_them(seed: int) -> None:
    """G1 to G10, for clusters of one to five and their membership changes."""
    cluster = Cluster(seed, **chosen(seed))
    cluster.run(1_500)
    cluster.check_liveness()


@pytest.mark.parametrize("seed", range(4))
def test_five_replicas_with_everything_on(seed: int) -> None:
    """The same with what the daemon uses, for longer."""
    cluster = Cluster(seed, 5, spare=1, async_storage_writes=True, pre_vote=True, check_quorum=True)
    cluster.run(4_000)
    cluster.check_liveness()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32), st.lists(st.sampled_from(["crash", "isolate", "campaign", "transfer"]), max_size=12))
def test_scenes_between_calm(seed: int, deeds: list[str]) -> None:
    """Whatever happens between two stretches of chaos, the cluster comes back (G9)."""
    cluster = Cluster(
        seed,
        3,
        pre_vote=bool(seed & 1),
        check_quorum=bool(seed & 2),
        async_storage_writes=bool(seed & 4),
    )
    cluster.elect()
    for deed in deeds:
        one = cluster.random.choice(list(cluster.replicas.values()))
        getattr(cluster, deed)(one)
        cluster.work(one)
        cluster.run(40)
    cluster.check_liveness()


def test_a_seed_repeats() -> None:
    """Time and chance are arguments: the same seed gives the same run, message by message."""
    first, second = (Cluster(7, 3, pre_vote=True) for _ in range(2))
    first.run(600)
    second.run(600)
    assert [str(message) for message in first.network] == [str(message) for message in second.network]
    assert [one.status for one in first.replicas.values()] == [one.status for one in second.replicas.values()]
