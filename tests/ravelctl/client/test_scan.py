"""Scans on virtual time: pages, times, and the last key that there can be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ravel_node.machine import limits
from ravelctl.client import Consistency, DeadlineError, NoLeaderError, RavelClient, RavelError, RetryPolicy, UnreachableError
from ravelctl.client.session.scan import next_key, range_of_prefix
from ravelctl.client.types import KEY_BYTES_MAX
from ravelpb.errors import Reason
from ravelpb.v1 import kv_pb2
from tests.ravelctl.client.scripted import Daemon, Network, refusal, refused
from tests.replica.virtual import virtual

A, B, C = "a:1", "b:1", "c:1"
RETRY = RetryPolicy(backoff_min_s=0.1, backoff_max_s=0.1)
LONGEST = b"k" * KEY_BYTES_MAX


def now() -> float:
    return asyncio.get_running_loop().time()


class Keys:
    """Some keys behind a daemon, which refuses what a real one refuses. `asked` are the first keys of its requests."""

    def __init__(self, daemon: Daemon, keys: list[bytes]) -> None:
        self._daemon = daemon
        self.keys = sorted(keys)
        self.asked: list[bytes] = []
        self.pages = 10**6  # before a stream breaks
        self.page_s = 0.0
        daemon.handlers["Scan"] = self.scan

    async def scan(self, request: kv_pb2.ScanRequest) -> Any:
        self.asked.append(request.start)
        if len(request.start) > limits.KEY_BYTES_MAX:
            raise refused(refusal(Reason.KEY_TOO_LARGE, "the first key is too long"))
        left = request.limit or 10**9
        start = request.start
        for _ in range(self.pages):
            await asyncio.sleep(self.page_s)
            found = [key for key in self.keys if start <= key and (not request.end or key < request.end)]
            page = found[: min(left, request.page_keys_max)]
            left -= len(page)
            more = len(found) > len(page) and left > 0
            items = [kv_pb2.KeyValue(key=key, value=b"v", revision=1) for key in page]
            yield kv_pb2.ScanResponse(items=items, more=more, header=self._daemon.header)
            if not more:
                return
            start = page[-1] + b"\0"
        raise refused(refusal(Reason.NO_LEADER, "lost it"))


def test_the_bound_is_the_server_s() -> None:
    assert KEY_BYTES_MAX == limits.KEY_BYTES_MAX


@pytest.mark.parametrize(
    ("key", "following"),
    [
        (b"a", b"a\0"),
        (b"\xff", b"\xff\0"),
        (LONGEST[:-1], LONGEST[:-1] + b"\0"),
        (LONGEST, b"k" * (KEY_BYTES_MAX - 1) + b"l"),
        (b"k" * (KEY_BYTES_MAX - 2) + b"\xff\xff", b"k" * (KEY_BYTES_MAX - 3) + b"l"),
        (b"\xff" * KEY_BYTES_MAX, None),
    ],
)
def test_the_key_after_a_key_is_one_that_a_cluster_can_hold(key: bytes, following: bytes | None) -> None:
    assert next_key(key) == following
    if following is not None:
        assert key < following
        assert len(following) <= KEY_BYTES_MAX
        assert not any(key < other < following for other in (key[:-1], following[:-1], key[:-1] + b"\xff"))


def test_the_range_of_a_prefix_ends_where_no_key_begins_so() -> None:
    assert range_of_prefix(b"a\xff") == (b"a\xff", b"b")
    assert range_of_prefix(b"\xff\xff") == (b"\xff\xff", b"")


@pytest.mark.parametrize(
    "keys",
    [
        [b"a", LONGEST, b"k" * (KEY_BYTES_MAX - 1) + b"l", b"z"],
        [b"a", b"k" * (KEY_BYTES_MAX - 1) + b"\xff", b"l"],
        [b"a", b"\xff" * KEY_BYTES_MAX],
        [LONGEST],
    ],
)
@pytest.mark.parametrize("page_keys", [1, 2, 1000])
def test_a_scan_goes_on_after_the_longest_keys(keys: list[bytes], page_keys: int) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        served = Keys(network[A], keys)
        served.pages = 1  # each page from a stream of its own
        async with RavelClient([A], channel_factory=network, retry=RETRY) as client:
            found = [item.key async for item in client.scan(page_keys_max=page_keys)]
            assert found == sorted(keys)
            found = [item.key async for item in client.scan(end=b"\xff", page_keys_max=page_keys)]
            assert found == [key for key in sorted(keys) if key < b"\xff"]
        assert max(map(len, served.asked)) <= KEY_BYTES_MAX

    run()


@virtual
async def test_a_resumed_scan_repeats_and_skips_nothing_and_keeps_its_limit() -> None:
    network = Network(A, B)
    keys = [b"k%02d" % number for number in range(20)]
    first, second = Keys(network[A], keys), Keys(network[B], keys)
    first.pages = second.pages = 2
    async with RavelClient([A, B], channel_factory=network, retry=RETRY) as client:
        assert [item.key async for item in client.scan(page_keys_max=3, limit=17)] == keys[:17]
    assert first.asked + second.asked != []
    assert sorted(first.asked + second.asked) == [b"", b"k05\0", b"k11\0"]


@pytest.mark.parametrize("timeout_s", [0.3, 2.0, 30.0])
@pytest.mark.parametrize("consistency", [Consistency.LINEARIZABLE, Consistency.STALE])
def test_a_page_ends_within_its_time(timeout_s: float, consistency: Consistency) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        for address in (A, B):
            Keys(network[address], [b"a"]).pages = 0
        async with RavelClient([A, B], channel_factory=network, retry=RETRY) as client:
            with pytest.raises(NoLeaderError, match=rf"within {timeout_s:.3g} s"):
                await anext(client.scan(consistency=consistency, timeout_s=timeout_s))
            assert timeout_s * 0.75 - 1e-6 <= now() <= timeout_s + 1e-6

    run()


@virtual
async def test_the_time_is_for_each_page() -> None:
    network = Network(A)
    served = Keys(network[A], [b"a", b"b", b"c", b"d"])
    served.page_s = 0.9
    async with RavelClient([A], channel_factory=network, retry=RETRY, timeout_s=1.0) as client:
        assert len([item async for item in client.scan(page_keys_max=1)]) == 4
        assert now() == pytest.approx(3.6)
        served.page_s = 60.0
        with pytest.raises((UnreachableError, DeadlineError)):
            await anext(client.scan())
        assert now() <= 4.6 + 1e-6


@virtual
async def test_a_hanging_server_is_left_in_time_for_the_next_one() -> None:
    network = Network(A, B)
    Keys(network[A], [b"a"]).page_s = 1000.0
    Keys(network[B], [b"a"])
    async with RavelClient([A, B], channel_factory=network, retry=RETRY, timeout_s=10.0) as client:
        assert [item.key async for item in client.scan()] == [b"a"]
    assert now() == pytest.approx(5.0)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_scan_without_time_does_nothing(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        Keys(network[A], [b"a"])
        async with RavelClient([A], channel_factory=network) as client:
            with pytest.raises(DeadlineError, match="nothing was done"):
                await anext(client.scan(timeout_s=timeout_s))
        assert not network[A].calls

    run()


@virtual
async def test_what_every_server_would_refuse_is_told_at_once() -> None:
    network = Network(A, B)
    for address in (A, B):
        Keys(network[address], [b"a"])
    async with RavelClient([A, B], channel_factory=network) as client:
        with pytest.raises(RavelError) as told:
            await anext(client.scan(start=b"k" * 481))
    assert told.value.reason is Reason.KEY_TOO_LARGE
    assert network[A].calls["Scan"] + network[B].calls["Scan"] == 1
