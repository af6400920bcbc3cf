"""Cases that everyone agrees on, what is told about a violation, and what revisions tell across keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ravelctl.linearizability import zones
from ravelctl.linearizability.checker import EXPLAINED_MAX, Report, check
from ravelctl.linearizability.explain import core
from ravelctl.linearizability.history import Kind, Operation, Outcome
from ravelctl.linearizability.search import TooHardError, search
from ravelctl.linearizability.steps import steps_of
from tests.linearizability.brute_force import is_linearizable
from tests.linearizability.generate import WRITES_AND_READS, Shape, generate, spoil

GIVEN_UP: dict[str, Any] = {"outcome": Outcome.UNKNOWN}


def put(client: str, begin: float, end: float, value: bytes, revision: int | None = None, **more: Any) -> Operation:
    return _operation(client, Kind.PUT, begin, end, value=value, revision=revision, **more)


def get(client: str, begin: float, end: float, answer: bytes | None, revision: int | None = None, **more: Any) -> Operation:
    return _operation(client, Kind.GET, begin, end, answer=answer, revision=revision, **more)


def delete(client: str, begin: float, end: float, found: bool | None, revision: int | None = None, **more: Any) -> Operation:
    return _operation(client, Kind.DELETE, begin, end, found=found, revision=revision, **more)


def take(client: str, begin: float, end: float, answer: bytes | None, revision: int | None = None, **more: Any) -> Operation:
    return _operation(client, Kind.GET_AND_DELETE, begin, end, answer=answer, revision=revision, **more)


def swap(client: str, begin: float, end: float, value: bytes, expected: int, **more: Any) -> Operation:
    return _operation(client, Kind.COMPARE_AND_SWAP, begin, end, value=value, expected_revision=expected, **more)


def _operation(client: str, kind: Kind, begin: float, end: float, **more: Any) -> Operation:
    return Operation(client, kind, more.pop("key", b"k"), begin, end, **more)


def ok(*history: Operation) -> bool:
    """The checker's verdict, and every order's where the operations are of one key."""
    found = not check(history).violations
    if len({operation.key for operation in history}) == 1 and not any(operation.batch for operation in history):
        assert found is is_linearizable(history)
    return found


# --- one key


def test_a_history_without_operations_has_an_order_and_says_how_empty_it_is() -> None:
    assert check([]) == Report(0, 0, 0, 0, ())


def test_concurrent_writes_may_come_in_either_order_but_all_see_the_same() -> None:
    writes = put("a", 0, 3, b"1"), put("b", 0, 3, b"2")
    assert ok(*writes, get("c", 4, 5, b"1"), get("c", 6, 7, b"1"))
    assert ok(*writes, get("c", 4, 5, b"2"), get("d", 4, 5, b"2"))
    assert not ok(*writes, get("c", 4, 5, b"1"), get("d", 4, 5, b"2"))


def test_a_read_may_see_a_write_under_way_but_then_later_reads_must() -> None:
    write = put("a", 0, 10, b"1")
    assert ok(write, get("b", 1, 2, None), get("b", 3, 4, b"1"))
    assert not ok(write, get("b", 1, 2, b"1"), get("c", 3, 4, None))


def test_a_stale_read() -> None:
    assert not ok(put("a", 0, 1, b"1"), put("a", 2, 3, b"2"), get("b", 4, 5, b"1"))
    assert ok(put("a", 0, 1, b"1"), put("a", 2, 4, b"2"), get("b", 3, 5, b"1"))


def test_a_lost_write() -> None:
    assert not ok(put("a", 0, 1, b"1"), get("b", 2, 3, None))


def test_a_value_that_nobody_wrote_and_one_that_is_read_before_it_is_written() -> None:
    assert not ok(get("a", 0, 1, b"x"))
    assert not ok(get("a", 0, 1, b"x"), put("b", 2, 3, b"x"))


def test_what_ends_at_the_moment_at_which_another_begins_is_concurrent_with_it() -> None:
    assert ok(put("a", 0, 1, b"1"), get("b", 1, 2, None))


def test_an_unknown_write_may_come_late_or_never_but_not_come_and_go() -> None:
    unknown = put("a", 0, 1, b"1", **GIVEN_UP)
    assert ok(unknown, get("b", 2, 3, None))
    assert ok(unknown, get("b", 2, 3, None), get("b", 100, 101, b"1"))
    assert not ok(unknown, get("b", 2, 3, b"1"), get("b", 4, 5, None))
    assert not ok(get("b", -3, -2, b"1"), unknown)


def test_a_failed_write_must_never_be_seen() -> None:
    assert ok(put("a", 0, 1, b"1", outcome=Outcome.FAILED), get("b", 2, 3, None))
    assert not ok(put("a", 0, 1, b"1", outcome=Outcome.FAILED), get("b", 2, 3, b"1"))


def test_a_write_that_was_done_twice() -> None:
    assert not ok(put("a", 0, 1, b"1"), delete("b", 2, 3, True), get("b", 4, 5, b"1"))
    assert not ok(put("a", 0, 1, b"1", 1), put("b", 2, 3, b"2", 2), get("b", 4, 5, b"1", 3))


def test_deletes_tell_whether_anything_was_there() -> None:
    assert ok(delete("a", 0, 1, False), put("a", 2, 3, b"1"), delete("a", 4, 5, True), delete("a", 6, 7, False))
    assert not ok(put("a", 0, 1, b"1"), delete("a", 2, 3, True), delete("b", 4, 5, True))
    assert ok(put("a", 0, 1, b"1"), put("c", 0, 1, b"2", **GIVEN_UP), delete("a", 2, 3, True), delete("b", 4, 5, True))
    assert ok(put("a", 0, 1, b"1"), delete("a", 2, 3, None), get("b", 4, 5, None), delete("a", 6, 7, None))


def test_a_value_is_taken_once() -> None:
    assert ok(put("a", 0, 1, b"1", 1), take("a", 2, 9, b"1", 1), take("b", 2, 9, None))
    assert not ok(put("a", 0, 1, b"1", 1), take("a", 2, 9, b"1", 1), take("b", 2, 9, b"1", 1))
    assert ok(put("a", 0, 1, b"1", 1), take("a", 2, 3, b"1", 1, **GIVEN_UP), get("b", 4, 5, b"1", 1), get("b", 6, 7, None))


def test_which_unknown_outcomes_were_used_up_makes_a_difference() -> None:
    assert ok(
        put("a", 3, 17, b"0"),
        put("b", 5, 14, b"1", **GIVEN_UP),
        put("c", 6, 22, b"0"),
        take("b", 15, 24, None, **GIVEN_UP),
        put("a", 18, 37, b"1"),
        take("c", 23, 32, b"1"),
        delete("c", 33, 39, True),
    )


def test_only_one_swap_at_a_revision_succeeds() -> None:
    first = put("a", 0, 1, b"1", 1)
    won = swap("a", 2, 9, b"2", 1, swapped=True, revision=2)
    assert ok(first, won, swap("b", 2, 9, b"3", 1, swapped=False, answer=b"2", revision=2))
    assert not ok(first, won, swap("b", 2, 9, b"3", 1, swapped=True, revision=3))
    assert not ok(first, won, swap("b", 10, 11, b"3", 1, swapped=False, answer=b"1", revision=1))
    assert ok(swap("a", 0, 1, b"1", 0, swapped=True, revision=1))
    assert not ok(first, swap("a", 2, 3, b"2", 0, swapped=True, revision=2))


def test_a_failed_swap_is_a_read_that_must_not_have_met_what_it_expected() -> None:
    first = put("a", 0, 1, b"1", 5)
    assert ok(first, swap("b", 2, 3, b"2", 4, swapped=False, answer=b"1", revision=5))
    assert not ok(first, swap("b", 2, 3, b"2", 5, swapped=False, answer=b"1", revision=5))
    assert not ok(first, swap("b", 2, 3, b"2", 4, swapped=False))
    assert not ok(swap("b", 2, 3, b"2", 0, swapped=False))


def test_an_unknown_swap_happens_only_at_its_revision() -> None:
    first, unknown = put("a", 0, 1, b"1", 1), swap("b", 2, 3, b"2", 1, **GIVEN_UP)
    assert ok(first, unknown, get("c", 4, 5, b"2", 2))
    assert ok(first, unknown, get("c", 4, 5, b"1", 1))
    assert not ok(first, put("a", 1.2, 1.8, b"3", 2), unknown, get("c", 4, 5, b"2", 3))


def test_revisions_order_the_writes_of_a_key() -> None:
    assert ok(put("a", 0, 9, b"1", 2), put("b", 0, 9, b"2", 1), get("c", 10, 11, b"1", 2))
    assert not ok(put("a", 0, 9, b"1", 2), put("b", 0, 9, b"2", 1), get("c", 10, 11, b"2", 1))
    assert not ok(put("a", 0, 1, b"1", 2), put("b", 2, 3, b"2", 1))


def test_a_read_names_the_write_that_it_saw() -> None:
    assert not ok(put("a", 0, 1, b"1", 1), get("b", 2, 3, b"1", 2))
    unknown = put("a", 0, 1, b"1", **GIVEN_UP)
    assert ok(unknown, get("b", 2, 3, b"1", 7), get("b", 4, 5, b"1", 7))
    assert not ok(unknown, get("b", 2, 3, b"1", 7), get("b", 4, 5, b"1", 8))
    assert ok(unknown, unknown, get("b", 2, 3, b"1", 7), get("b", 4, 5, b"1", 8))


def test_there_must_be_room_between_revisions_for_the_changes_that_were_seen() -> None:
    around = put("a", 0, 1, b"1", 5), put("a", 6, 7, b"3", 7)
    between = put("b", 2, 3, b"2", **GIVEN_UP)
    assert ok(*around, between, get("c", 4, 5, b"2"))
    assert not ok(*around, between, get("c", 4, 5, b"2"), take("c", 5.2, 5.8, b"2"))


# --- the whole history


def test_keys_are_judged_apart() -> None:
    report = check([put("a", 0, 1, b"1"), get("b", 2, 3, None, key=b"other"), get("b", 2, 3, b"1")])
    assert (report.keys, report.done, report.violations) == (2, 3, ())


def test_two_changes_must_not_share_a_revision_unless_they_are_of_one_batch() -> None:
    one, two = put("a", 0, 1, b"1", 4), put("b", 0, 1, b"2", 4, key=b"other")
    assert "revision 4 is of two different changes" in str(check([one, two]))
    assert ok(replace(one, batch=7), replace(two, batch=7))
    assert not ok(replace(one, batch=7), replace(two, batch=8))
    assert "two changes have revision 4" in str(check([put("a", 0, 5, b"1", 4), put("b", 0, 5, b"1", 4)]))


def test_a_read_of_another_key_must_not_name_the_revision_of_this_ones_change() -> None:
    unknown = put("b", 0, 1, b"2", key=b"other", **GIVEN_UP)
    assert not ok(put("a", 0, 1, b"1", 4), unknown, get("b", 2, 3, b"2", 4, key=b"other"))
    assert ok(put("a", 0, 1, b"1", 4), unknown, get("b", 2, 3, b"2", 5, key=b"other"))


def test_revisions_rise_with_time_across_keys() -> None:
    assert not ok(put("a", 0, 1, b"1", 5), put("b", 2, 3, b"2", 4, key=b"other"))
    assert ok(put("a", 0, 2, b"1", 5), put("b", 1, 3, b"2", 4, key=b"other"))
    assert "revision 4 was given out after revision 5 was" in str(
        check([put("a", 0, 1, b"1", 5), put("b", 2, 3, b"2", 4, key=b"other")])
    )
    assert not ok(put("a", 0, 1, b"1", 5), delete("b", 2, 3, False, 4, key=b"other"))
    assert ok(put("a", 0, 1, b"1", 5), delete("b", 2, 3, False, 5, key=b"other"))


def test_a_revision_of_nobody_is_a_write_that_was_done_twice_if_there_are_no_other_writers() -> None:
    history = [put("a", 0, 1, b"1", 1), put("a", 2, 3, b"2", 3)]
    assert not check(history).violations
    assert "1 revisions belong to no known change (2)" in str(check(history, only_writers=True))
    assert not check([*history, put("b", 0, 1, b"3", key=b"other", **GIVEN_UP)], only_writers=True).violations
    assert not check([put("a", 0, 1, b"1", 1), take("a", 2, 3, b"1", 1), put("a", 4, 5, b"2", 3)], only_writers=True).violations


# --- what is told


def test_a_violation_names_the_key_and_the_few_operations_that_show_it() -> None:
    history = generate(Random(5), Shape(clients=4, keys=2, operations=400, unknown=0.05))
    last_s = max(operation.completed_s or 0.0 for operation in history)
    stale = [
        put("writer", last_s + 1, last_s + 2, b"old", 1001),
        put("writer", last_s + 3, last_s + 4, b"new", 1002),
        get("reader", last_s + 5, last_s + 6, b"old", 1001),
    ]
    report = check([*history, *(replace(operation, key=b"k1") for operation in stale)])
    assert len(report.violations) == 1
    (violation,) = report.violations
    assert [operation.client for operation in violation.operations] == ["writer", "reader"]
    told = str(report)
    assert "key b'k1': no order of the operations on it gives these 2 answers" in told
    assert "put b'new' -> done at revision 1002" in told
    assert "get -> b'old' at revision 1001" in told
    assert "written by\n    client writer" in told
    assert f"{last_s + 5 - min(operation.invoked_s for operation in history):.6f}" in told


def test_many_violations_are_counted() -> None:
    report = check([get("a", 0, 1, b"x", key=b"%d" % number) for number in range(10)])
    assert (len(report.violations), report.unexplained) == (EXPLAINED_MAX, 10 - EXPLAINED_MAX)
    assert "and 7 more violations" in str(report)


def _without(history: Sequence[Operation], kept: Sequence[int]) -> list[Operation]:
    """What an explanation leaves out, left out: all that changed nothing, and the answers of writes."""
    relaxed = []
    for i, operation in enumerate(history):
        took = operation.kind is Kind.GET_AND_DELETE and operation.answer is not None
        wrote = operation.kind is Kind.PUT or operation.swapped or operation.found or took
        if i in kept or operation.outcome is not Outcome.DONE:
            relaxed.append(operation)
        elif wrote:
            relaxed.append(replace(operation, outcome=Outcome.UNKNOWN))
    return relaxed


def test_an_explanation_holds_and_none_of_its_operations_can_be_left_out() -> None:
    explained = 0
    for seed in range(400):
        rng = Random(seed)
        history = spoil(rng, generate(rng, Shape(operations=6, unknown=0.1, revisions=seed % 2 == 0)))
        if is_linearizable(history):
            continue
        shown = core(history, [i for i, operation in enumerate(history) if operation.outcome is Outcome.DONE])
        assert not is_linearizable(_without(history, shown)), f"seed {seed}"
        for left_out in shown:
            assert is_linearizable(_without(history, [i for i in shown if i != left_out])), f"seed {seed}"
        explained += 1
    assert explained > 50


# --- size


def test_the_fast_way_and_the_search_agree_on_long_histories() -> None:
    verdicts = set()
    for seed in range(6):
        history = generate(Random(seed), Shape(clients=6, operations=300, kinds=WRITES_AND_READS, unknown=0.1, revisions=False))
        if seed % 2:
            reads = [i for i, operation in enumerate(history) if operation.answer is not None]
            history[reads[-1]] = replace(history[reads[-1]], answer=history[reads[len(reads) // 2]].answer)
        steps = steps_of(history)
        assert zones.applies(steps)
        verdict = search(steps) is None
        assert verdict is (not zones.conflict(steps))
        verdicts.add(verdict)
    assert verdicts == {True, False}


@pytest.mark.parametrize("revisions", [True, False])
def test_many_clients_and_unknown_outcomes_do_not_stop_it(revisions: bool) -> None:
    shape = Shape(clients=32, keys=8, operations=4_000, unknown=0.05, revisions=revisions)
    report = check(generate(Random(1), shape), configurations_max=50_000)
    assert not report.violations
    assert report.done > 3_000
    assert report.unknown > 100


def test_it_gives_up_rather_than_say_what_it_does_not_know() -> None:
    writes = [put(f"w{i}", 0, 100, b"%d" % (i % 9)) for i in range(18)]
    reads = [get(f"r{i}", 0, 100, b"%d" % (i % 9)) for i in range(18)]
    with pytest.raises(TooHardError):
        check([*writes, *reads, get("z", 101, 102, b"nobody's", key=b"k")], configurations_max=100)


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (Operation("a", Kind.GET, b"k", 1.0), "no time of completion"),
        (get("a", 2, 1, None), "before it was invoked"),
        (_operation("a", Kind.PUT, 0, 1), "has no value"),
        (_operation("a", Kind.COMPARE_AND_SWAP, 0, 1, value=b"1", swapped=True), "no expected revision"),
        (swap("a", 0, 1, b"1", 1), "whether it swapped"),
        (swap("a", 0, 1, b"1", 1, swapped=False, answer=b"2"), "not at a revision"),
    ],
)
def test_what_is_no_operation_is_refused(operation: Operation, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check([operation])
