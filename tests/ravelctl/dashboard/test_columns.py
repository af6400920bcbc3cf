"""The table at any width: every figure of any cluster is whole, and no line is wider than the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ravelctl.dashboard.columns import COLUMNS, ORDERS, arranged, layout, row_line, title_line, wanted
from ravelctl.dashboard.detail import body
from ravelctl.dashboard.figures import count
from ravelctl.dashboard.model import ClusterView, Freshness, ReplicaView, Role, Severity, cluster_view
from ravelctl.dashboard.observer import Heard, Observer
from ravelctl.dashboard.text import plain
from tests.ravelctl.dashboard.scripted import WALL_MS
from tests.ravelctl.dashboard.test_model import made

U64 = st.integers(0, 2**64 - 1)
MAYBE = st.none() | U64

ROWS = st.builds(
    ReplicaView,
    key=st.uuids().map(str),
    replica_id=U64,
    name=st.sampled_from(["n1", "n2", "orders-prod-eu-west-1a-03", "192.168.100.100:17400"]),
    address=st.just("10.0.0.1:7400"),
    role=st.sampled_from(Role),
    voter=st.booleans(),
    freshness=st.sampled_from(Freshness),
    age_s=st.floats(0, 1e9),
    error=st.just(""),
    term=MAYBE,
    last=MAYBE,
    commit=MAYBE,
    applied=MAYBE,
    match=MAYBE,
    lag=MAYBE,
    lag_bytes=MAYBE,
    lag_bytes_is_least=st.booleans(),
    lag_ms=MAYBE,
    lag_ms_is_least=st.booleans(),
    state=st.sampled_from(["repl", "repl-PAUSED", "snap-43%", "DOWN-12s", "STALE-VIEW", "?", "-", "probe"]),
    inflight=st.none() | st.integers(0, 2**32 - 1),
    inflight_max=st.integers(0, 2**32 - 1),
    contact_ms=MAYBE,
    fsync_p99_us=MAYBE,
    apply_p99_us=MAYBE,
    db_used=MAYBE,
    db_max=U64,
    severity=st.sampled_from(Severity),
)
NOTHING = cluster_view([], 0.0, 1.0)


def view_of(rows: list[ReplicaView]) -> ClusterView:
    leader = next((row for row in rows if row.role is Role.LEADER), None)
    return replace(NOTHING, replicas=tuple(rows), leader=leader)


@settings(max_examples=150)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([80, 81, 100, 119, 120, 160, 220]))
def test_every_cell_fits_its_column_at_every_width(rows: list[ReplicaView], width: int) -> None:
    view = view_of(rows)
    shown = layout(width, wanted(rows, view, {}))
    assert len(plain(title_line(shown))) <= width
    for row in rows:
        for column, room in shown.columns:
            assert len(column.cell(row, view, room)) <= room, column.title
        assert len(plain(row_line(row, view, shown))) <= width


@settings(max_examples=150)
@given(ROWS, U64, st.sampled_from([80, 120]))
def test_a_lag_is_whole_or_has_a_unit_and_is_never_negative(row: ReplicaView, lag: int, width: int) -> None:
    row = replace(row, role=Role.FOLLOWER, lag=lag)
    shown = layout(width, {})
    column, room = next((c, w) for c, w in shown.columns if c.title == "LAG")
    text = column.cell(row, view_of([row]), room)
    assert "-" not in text
    assert text == count(lag, room)
    assert text[-1] in "kMGTPE" or int(text.replace(",", "")) == lag


def test_the_columns_of_the_two_layouts() -> None:
    full = "NODE ROLE TERM LAST COMMIT APPLIED LAG LAG-B LAG-s STATE INFL CONTACT FSYNC APPLY DB"
    assert " ".join(layout(120, {}).titles) == full
    assert " ".join(layout(80, {}).titles) == "NODE ROLE TERM LAG LAG-B LAG-s STATE CONTACT FSYNC DB"


def test_columns_come_back_one_by_one_and_never_shrink_below_their_least() -> None:
    before = 0
    for width in range(80, 240):
        shown = layout(width, {})
        assert sum(w for _, w in shown.columns) + shown.gap * (len(shown.columns) - 1) <= width
        assert all(w >= column.least for column, w in shown.columns)
        assert len(shown.columns) >= before
        before = len(shown.columns)
    assert before == len(COLUMNS)


def test_a_column_that_grew_stays() -> None:
    row = replica(name="orders-prod-eu-west-1a-03")
    grown = wanted([row], view_of([row]), {})
    assert wanted([replica(name="n1")], view_of([replica(name="n1")]), grown)["NODE"] == grown["NODE"]


def replica(**rest: Any) -> ReplicaView:
    values: dict[str, Any] = {
        "key": "1", "replica_id": 1, "name": "n1", "address": "10.0.0.1:7400", "role": Role.FOLLOWER, "voter": True,
        "freshness": Freshness.LIVE, "age_s": 0.0, "error": "",
    }  # fmt: skip
    return ReplicaView(**{**values, **rest})


@pytest.mark.parametrize(("pattern", "names"), [("", ["n1", "n2"]), ("N2", ["n2"]), ("lead", ["n1"]), ("!", ["n2"]), ("zzz", [])])
def test_the_filter(pattern: str, names: list[str]) -> None:
    rows = [replica(role=Role.LEADER), replica(key="2", name="n2", severity=Severity.WARN)]
    assert [row.name for row in arranged(rows, ORDERS[0], pattern)] == names


def test_orders_are_stable_and_put_what_is_unknown_last() -> None:
    rows = [replica(key=str(n), name=f"n{n}", lag=lag) for n, lag in enumerate([None, 5, 5, 0])]
    order = next(order for order in ORDERS if order.name == "lag")
    assert [row.name for row in arranged(rows, order)] == ["n1", "n2", "n3", "n0"]


@settings(max_examples=60, deadline=None)
@given(U64 | st.integers(0, 10**13), U64 | st.integers(0, 10**13), U64, st.sampled_from([80, 120]))
@example(0, 10**12, 0, 80)
@example(10**10, 10**12, 0, 80)
def test_no_number_is_cropped_on_the_screen_of_a_replica(last: int, match: int, lag_ms: int, width: int) -> None:
    cluster = made(3)
    for status in cluster.replicas.values():
        status.last = status.commit = last
        status.applied = match
    cluster.progress[2].match, cluster.progress[2].next, cluster.progress[2].lag_ms = match, match, lag_ms
    observer = Observer(1.0)
    for one in cluster.replicas.values():
        observer.take(Heard(one.address, one.status()), 1.0, WALL_MS)
    picture = observer.tick(1.0, WALL_MS)
    lines = [plain(line) for line in body(picture, picture.view.replicas[1], width, 40, 10)]
    assert all(len(line) <= width for line in lines)
    assert not [line for line in lines if re.search(r"\d…", line)]
