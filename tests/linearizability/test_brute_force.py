"""The checker against every order there is, on thousands of small random histories."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelctl.linearizability import zones
from ravelctl.linearizability.history import Kind, Operation, Outcome
from ravelctl.linearizability.search import search
from ravelctl.linearizability.steps import steps_of
from tests.linearizability.brute_force import is_linearizable
from tests.linearizability.generate import ALL_KINDS, WRITES_AND_READS, Shape, generate, spoil


def _shape(rng: Random, *, faults: bool) -> Shape:
    return Shape(
        clients=rng.choice((2, 3, 4, 5)),
        operations=rng.randint(2, 7),
        kinds=rng.choice((ALL_KINDS, ALL_KINDS, WRITES_AND_READS)),
        values=rng.choice((0, 0, 1, 2)),
        unknown=rng.choice((0, 0.2, 0.5)),
        revisions=rng.random() < 0.5,
        lost=0.1 if faults else 0.0,
        doubled=0.1 if faults else 0.0,
    )


def _agree(history: list[Operation]) -> bool:
    """The verdict of every order, which the others must share."""
    expected = is_linearizable(history)
    told = "\n".join(operation.describe() for operation in sorted(history, key=lambda each: each.invoked_s))
    steps = steps_of(history)
    assert (search(steps) is None) is expected, f"the search says {not expected} of\n{told}"
    if zones.applies(steps):
        assert (not zones.conflict(steps)) is expected, f"the zones say {not expected} of\n{told}"
    return expected


@pytest.mark.parametrize("block", range(4))
def test_histories_of_an_atomic_store_have_an_order(block: int) -> None:
    for seed in range(500 * block, 500 * (block + 1)):
        rng = Random(seed)
        assert _agree(generate(rng, _shape(rng, faults=False))), f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_spoiled_histories_get_the_same_verdict(block: int) -> None:
    verdicts: Counter[bool] = Counter()
    for seed in range(1000 * block, 1000 * (block + 1)):
        rng = Random(seed)
        history = generate(rng, _shape(rng, faults=rng.random() < 0.4))
        for _ in range(rng.randint(1, 2)):
            history = spoil(rng, history)
        verdicts[_agree(history)] += 1
    assert min(verdicts[True], verdicts[False]) > 100, "the histories do not tell good from bad"


_ABOUT = (b"a", b"b", None)
_TIMES = st.integers(0, 12)


@st.composite
def _operations(draw: st.DrawFn) -> Operation:
    """Any operation at all: most of these histories come from no store."""
    kind = draw(st.sampled_from(Kind))
    begin, length = draw(_TIMES), draw(st.integers(0, 6))
    outcome = draw(st.sampled_from([Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.UNKNOWN, Outcome.FAILED]))
    writes = kind in (Kind.PUT, Kind.COMPARE_AND_SWAP)
    swaps = kind is Kind.COMPARE_AND_SWAP
    swapped = draw(st.booleans()) if swaps else None
    reads = kind in (Kind.GET, Kind.GET_AND_DELETE) or swapped is False
    answer = draw(st.sampled_from(_ABOUT)) if reads else None
    revision = draw(st.one_of(st.none(), st.integers(1, 5)))
    if reads and answer is None:
        revision = None
    elif swaps and reads:
        revision = revision or 1
    return Operation(
        "c",
        kind,
        b"k",
        begin,
        begin + length,
        outcome,
        value=draw(st.sampled_from(_ABOUT[:2])) if writes else None,
        expected_revision=draw(st.integers(0, 4)) if swaps else None,
        found=draw(st.sampled_from([True, False, None])) if kind is Kind.DELETE else None,
        swapped=swapped,
        answer=answer,
        revision=revision,
    )


@given(st.lists(_operations(), max_size=6))
def test_any_operations_at_all_get_the_same_verdict(history: list[Operation]) -> None:
    assert [problem for operation in history for problem in operation.problems()] == []
    _agree(history)
