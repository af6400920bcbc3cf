"""What a replica that was restarted still knows of the last hour."""

from __future__ import annotations

from ravel_node.replica.events import Event, EventKind
from ravel_node.replica.past_hour import LEADER_KNOWN, WINDOW_S, PastHour, elections, leaders

NOW_MS = 10_000_000


def event(age_s: float, term: int, name: str = LEADER_KNOWN) -> Event:
    return Event("b", 1, int(NOW_MS - age_s * 1000), EventKind.LEADERSHIP, name, 1, term, 0, "", {})


def test_terms_and_leaders_of_earlier_boots_count_once_each() -> None:
    kept = [
        event(WINDOW_S + 900, 1),  # the first of all took over from nobody
        event(WINDOW_S + 5, 2),  # too long ago
        event(900, 4, "campaign-begun"),  # an election that nobody won
        event(800, 5, "campaign-begun"),
        event(799, 5),
        event(500, 5, "stepped-down"),
        event(300, 5),  # known again after a restart
        event(200, 6),
        event(-50, 7),  # the clock was set back since
    ]
    assert elections(kept, NOW_MS) == [900, 800, 200, 0]
    assert leaders(kept, NOW_MS) == [799, 200, 0]
    assert elections([], NOW_MS) == leaders([], NOW_MS) == []


def test_what_is_older_than_an_hour_goes() -> None:
    now = 0.0
    hour = PastHour(lambda: now, [WINDOW_S - 10, 5])
    assert hour.count == 2
    hour.add()
    now = 10.0
    assert hour.count == 2
    now = WINDOW_S + 1
    assert hour.count == 0
