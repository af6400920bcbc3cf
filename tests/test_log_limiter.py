"""Events that repeat are counted, and no other event is lost for them."""

from __future__ import annotations

import random

import pytest

from ravel_node.log_limiter import ALIKE, GROUPS_MAX, QUIET_S, SAME, SAME_NAME, SWEEP_S, WINDOWS_S, Event, LogRateLimiter, Plain

HOUR_S = 3_600


def event(name: str = "raft.role_changed", **fields: Plain) -> Event:
    return {"time": "t", "level": "info", "event": name, **fields}


class Log:
    """What comes through a limiter, with the time at which it came. The sweep runs every second, as the log thread does."""

    def __init__(self) -> None:
        self.limiter = LogRateLimiter(every=frozenset({"gateway.request"}))
        self.now = 0.0
        self.lines: list[tuple[float, Event]] = []

    def say(self, one: Event) -> None:
        if self.limiter.admits(one, self.now):
            self.lines.append((self.now, one))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self.lines += [(self.now, report) for report in self.limiter.sweep(self.now)]

    def accounted(self) -> int:
        """Events that were logged or are contained in a report."""
        return sum(int(line["repeated"] or 0) if "repeated" in line else 1 for _, line in self.lines)


def test_what_repeats_is_logged_at_first_and_counted_from_then_on() -> None:
    log = Log()
    for _ in range(60):
        log.say(event(role="follower"))
        log.pass_time(1.0)
    log.pass_time(SWEEP_S)
    assert [line for _, line in log.lines[: SAME.first]] == [event(role="follower")] * SAME.first
    ((at, report),) = log.lines[SAME.first :]
    assert report == {**event(role="follower"), "repeated": 60 - SAME.first, "in_s": round(at), "last_at": "t"}
    assert WINDOWS_S[0] <= at <= WINDOWS_S[0] + SWEEP_S


def test_an_hour_of_the_same_is_a_handful_of_lines() -> None:
    log = Log()
    for _ in range(2 * HOUR_S):
        log.say(event("raft.election_started", term=3, pre_vote=True))
        log.pass_time(1.0)
    first_hour = [line for at, line in log.lines if at <= HOUR_S]
    assert len(first_hour) == SAME.first + 2
    assert len(log.lines) - len(first_hour) == 1
    log.lines += [(log.now, report) for report in log.limiter.finish(log.now)]
    assert log.accounted() == 2 * HOUR_S, "no event is missing from the counts"


@pytest.mark.parametrize("every_s", [0.05, 1.0, 10.0, 30.0, 50.0])
def test_slow_repetitions_are_limited_too(every_s: float) -> None:
    log = Log()
    count = int(3 * HOUR_S / every_s)
    for _ in range(count):
        log.say(event(peer=2))
        log.pass_time(every_s)
    assert len(log.lines) <= SAME.first + 5
    log.lines += [(log.now, report) for report in log.limiter.finish(log.now)]
    assert log.accounted() == count


def test_a_flood_hides_no_other_event() -> None:
    """Neither one of another name, nor one of the same name about another peer, reason or role."""
    log = Log()
    others = [
        event("transport.peer_refused", peer=3, why="it belongs to cluster 1"),
        event("transport.peer_refused", peer=2, why="it was removed"),
        event("transport.peer_refused", peer=2, why="it is replica 1 at 127.0.0.1:7400"),
        event("transport.peer_refused", peer=2, why="it is replica 1 at 127.0.0.1:7410"),
        event("raft.role_changed", role="leader"),
    ]
    for second in range(HOUR_S):
        for _ in range(4):
            log.say(event("transport.peer_refused", peer=2, why=f"it acknowledges {random.Random(second).randrange(99_999)}"))
        log.pass_time(1.0)
        if second in (0, 500, 1_000, 3_000):
            for other in others:
                log.say(other)
                assert log.lines[-1] == (log.now, other)
    assert len(log.lines) < 250, "of 14,400"


def test_events_that_differ_in_numbers_only_are_limited_together() -> None:
    log = Log()
    for number in range(1_000):
        log.say(event("raft.safety_event", sender=2, term=number, reason=f"it acknowledges {number}, and the log ends at 7"))
    assert len(log.lines) == ALIKE.first
    log.pass_time(WINDOWS_S[0] + SWEEP_S)
    ((_, report),) = log.lines[ALIKE.first :]
    assert (report["repeated"], report["term"]) == (1_000 - ALIKE.first, 999), "the last one stands for all"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"peer": 2}, {"peer": 3}),
        ({"port": 7400}, {"port": 7410}),
        ({"leader_id": 1}, {"leader_id": 2}),
        ({"why": "n1 is away"}, {"why": "n2 is away"}),
        ({"why": "at 127.0.0.1:7400"}, {"why": "at 127.0.0.1:7410"}),
        ({"why": "at 10.0.0.1"}, {"why": "at 10.0.0.2"}),
        ({"ok": True}, {"ok": False}),
        ({"kind": None}, {"kind": "other"}),
    ],
)
def test_identifiers_are_no_numbers(one: dict[str, Plain], other: dict[str, Plain]) -> None:
    log = Log()
    for number in range(ALIKE.first + 5):
        log.say(event("a", index=number, **one))
    log.say(event("a", **other))
    assert len(log.lines) == ALIKE.first + 1


def test_an_event_in_ever_other_words_is_limited_by_its_name() -> None:
    log = Log()
    for number in range(10 * SAME_NAME.first):
        log.say(event("server.handshake_failed", caller=f"10.0.{number >> 8}.{number & 255}"))
    assert len(log.lines) == SAME_NAME.first
    log.pass_time(WINDOWS_S[0] + SWEEP_S)
    assert log.accounted() == 10 * SAME_NAME.first


def test_when_it_stops_the_rest_is_reported_and_the_next_time_is_news() -> None:
    log = Log()
    for _ in range(10):
        log.say(event())
    log.pass_time(WINDOWS_S[0] + SWEEP_S)
    log.say(event())
    log.pass_time(QUIET_S + SWEEP_S)
    assert [line.get("repeated") for _, line in log.lines] == [None] * SAME.first + [10 - SAME.first, 1]
    assert not log.limiter.remembers
    log.say(event())
    assert log.lines[-1] == (log.now, event())


def test_what_few_lines_repeat_is_not_delayed() -> None:
    log = Log()
    for _ in range(SAME.first):
        log.say(event())
    assert len(log.lines) == SAME.first
    log.pass_time(HOUR_S)
    assert len(log.lines) == SAME.first


def test_some_events_are_logged_each() -> None:
    log = Log()
    for _ in range(1_000):
        log.say(event("gateway.request", path="/get"))
    assert len(log.lines) == 1_000


def test_memory_is_bounded_and_what_is_forgotten_reports_first() -> None:
    log = Log()
    said = 0
    for name in range(GROUPS_MAX):
        for _ in range(SAME.first + 1):
            log.say(event(f"library.{name}"))
            said += 1
        log.lines += [(log.now, report) for report in log.limiter.sweep(log.now)]
        assert len(log.limiter._groups) <= GROUPS_MAX
    log.lines += [(log.now, report) for report in log.limiter.finish(log.now)]
    assert log.accounted() == said


def test_the_end_reports_what_is_withheld() -> None:
    log = Log()
    for _ in range(10):
        log.say(event())
    assert [report["repeated"] for report in log.limiter.finish(3.0)] == [10 - SAME.first]
    assert log.limiter.finish(3.0) == []
