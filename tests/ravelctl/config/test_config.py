from __future__ import annotations

import pytest

from ravelctl.config.settings import Color, Output, duration_s, endpoint, endpoint_list, settings


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("2s", 2.0), ("1.5m", 90.0), ("1h", 3600.0), ("3", 3.0), ("0.25", 0.25)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1 s", "2days", "s", "nan", "inf", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration above zero"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1:7400"),
        ("db-1.local:99", "db-1.local:99"),
        ("[::1]:7400", "[::1]:7400"),
        ("[fe80::1]", "[fe80::1]:7400"),
    ],
)
def test_endpoints(text: str, address: str) -> None:
    assert endpoint(text) == address


@pytest.mark.parametrize("text", ["", ":", ":7400", "a:0", "a:65536", "a:b", "::1", "http://a:1", "a b", "a:1:2"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        endpoint(text)


def test_lists_keep_their_order_and_name_each_once() -> None:
    assert endpoint_list("b:1, a:1,b:1  c:1") == ("b:1", "a:1", "c:1")
    with pytest.raises(ValueError, match="names no address"):
        endpoint_list(" , ")


def test_flags_beat_defaults_and_no_color_is_heeded_unless_a_flag_says_otherwise() -> None:
    assert settings({}, {}).color is Color.AUTO
    assert settings({}, {"NO_COLOR": "1"}).color is Color.NEVER
    assert settings({}, {"NO_COLOR": ""}).color is Color.AUTO
    assert settings({"color": Color.ALWAYS}, {"NO_COLOR": "1"}).color is Color.ALWAYS
    given = settings({"endpoints": ("a:1",), "output": Output.JSON, "timeout_s": 9.0}, {})
    assert (given.endpoints_given, given.call_timeout_s, given.wait_timeout_s()) == (True, 9.0, 9.0)
    assert (settings({}, {}).endpoints_given, settings({}, {}).call_timeout_s, settings({}, {}).wait_timeout_s()) == (
        False,
        5.0,
        60.0,
    )
