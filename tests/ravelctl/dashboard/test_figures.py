"""Numbers as text: no digit is lost, whatever the number and the width."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelctl.dashboard.figures import (
    count,
    difference,
    elided,
    lag_seconds,
    micros,
    short,
    size,
    span,
)

U64 = st.integers(0, 2**64 - 1)
FACTORS = {"": 1, "k": 1e3, "K": 2**10, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
BYTES = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


def amount(text: str, factors: Mapping[str, float]) -> float:
    match = re.fullmatch(r"(\d*\.?\d+)([A-Za-z]*)", text)
    assert match is not None, text
    return float(match[1]) * factors[match[2]]


@given(U64, st.integers(4, 30))
def test_a_count_is_whole_or_has_a_unit(value: int, width: int) -> None:
    text = count(value, width)
    assert len(text) <= width
    if text.replace(",", "").isdigit():
        assert int(text.replace(",", "")) == value
    else:
        assert amount(text, FACTORS) == pytest.approx(value, rel=0.06)


@given(st.integers(-(2**64), 2**64), st.integers(6, 30))
def test_a_difference_keeps_its_sign_and_fits(value: int, width: int) -> None:
    text = difference(value, width)
    assert len(text) <= width
    assert text[0] == ("+" if value > 0 else "-")
    assert text.count("-") + text.count("+") == 1


@given(U64)
def test_short_forms_are_short_and_near(value: int) -> None:
    assert len(short(value)) <= 4
    assert len(size(value)) <= 4
    assert amount(short(value), FACTORS) == pytest.approx(value, rel=0.06)
    assert amount(size(value), BYTES) == pytest.approx(value, rel=0.06)


@given(U64)
def test_times_fit_and_only_zero_is_zero(value: int) -> None:
    assert len(micros(value)) <= 6
    assert len(lag_seconds(value)) <= 6
    assert len(span(value / 1000)) <= 6
    assert (micros(value) == "0ms") == (value == 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0ms"), (1, ".1ms"), (400, ".4ms"), (1_800, "1.8ms"), (19_000, "19ms"), (240_000, "240ms"), (1_200_000, "1.2s")],
)
def test_durations_as_people_write_them(value: int, text: str) -> None:
    assert micros(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.012, "12ms"), (9.2, "9.2s"), (12, "12s"), (18 * 60, "18m"), (3 * 3600, "3h"), (6 * 86400, "6d")]
)
def test_spans_as_people_write_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (8_123, "8.1k"), (41_000, "41k"), (412_993, "413k"), (999_999, "1.0M")]
)
def test_short_as_people_write_it(value: int, text: str) -> None:
    assert short(value) == text


def test_a_rate_below_one_is_no_zero() -> None:
    assert short(0.04) == ".1"
    assert short(0.0) == "0"


def test_a_long_name_keeps_its_ends() -> None:
    assert elided("orders-prod-eu-03", 10) == "orde…eu-03"
    assert elided("n1", 10) == "n1"
