from __future__ import annotations

import pytest

from ravelctl.load.bench import Latencies
from ravelpb.errors import Reason
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster


@pytest.mark.parametrize("pipeline", [1, 16])
@pytest.mark.parametrize("mix", ["put", "get", "mixed"])
def test_a_short_run(ctl: Ctl, cluster: FakeCluster, mix: str, pipeline: int) -> None:
    first, *_ = cluster.found(2, leader=2)
    words = ["--clients", 4, "--pipeline", pipeline, "--value-size", 8, "--seconds", "600ms", "--keys", 20, "--mix", mix]
    ran = ctl("bench", *words, "-e", first, "-o", "json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["commands"] > 0
    assert told["commands"] % pipeline == 0
    assert (told["errors"], told["unknown"]) == ({}, 0)
    latency = told["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert sum(bar["count"] for bar in told["histogram"]) * pipeline == told["commands"]
    assert (mix == "get") == (cluster.revision == 20)
    assert set(cluster.data) <= {b"bench/%08d" % n for n in range(20)}


def test_the_figures_for_people(ctl: Ctl, cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    ran = ctl("bench", "--clients", 2, "--seconds", "200ms", "-e", address)
    words = [line.split()[0] for line in ran.out.splitlines()]
    assert words[:6] == ["put", "commands", "throughput", "latency", "errors", "unknown"]
    assert "#" in ran.out


@pytest.mark.parametrize("pipeline", [1, 4])
def test_errors_and_unknown_outcomes_are_counted_apart(ctl: Ctl, cluster: FakeCluster, pipeline: int) -> None:
    (address,) = cluster.found(1)
    words = ["bench", "--clients", 2, "--pipeline", pipeline, "--seconds", "200ms", "-e", address, "-o", "json"]
    cluster.kv_refusal = (Reason.QUOTA_EXCEEDED, "full")
    full = ctl(*words)
    assert (full.code, full.json["commands"], full.json["unknown"]) == (1, 0, 0)
    assert full.json["errors"]["QUOTA_EXCEEDED"] > 0


def test_no_leader_is_told_before_any_load(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3, leader=0)
    assert ctl("bench", "-e", first).code == 4
    assert ctl("bench", "--pipeline", 1024, "--value-size", 8192, "-e", first).code == 2


def test_quantiles_are_right_to_a_few_percent() -> None:
    samples = Latencies()
    for milliseconds in range(1, 1001):
        samples.add(milliseconds / 1000)
    assert samples.count == 1000
    assert samples.quantile_s(0.5) == pytest.approx(0.5, rel=0.03)
    assert samples.quantile_s(0.99) == pytest.approx(0.99, rel=0.03)
    assert samples.quantile_s(1.0) == samples.max_s == 1.0
    assert sum(count for *_, count in samples.octaves()) == 1000
    assert Latencies().quantile_s(0.5) == 0.0
