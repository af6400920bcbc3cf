"""JSON goes through to the letter, and what is none is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.gateway.errors import HttpError
from ravel_node.gateway.values import is_json, key_of, members

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON, key=st.text(st.characters(codec="utf-8"), min_size=1), spaced=st.booleans(), ascii_only=st.booleans())
def test_every_json_value_comes_out_as_it_went_in(value: object, key: str, spaced: bool, ascii_only: bool) -> None:
    text = json.dumps(value, indent=2 if spaced else None, ensure_ascii=ascii_only)
    try:
        body = f'{{"val": {text}, "key": {json.dumps(key)}}}'.encode()
    except UnicodeEncodeError:
        return  # half of a surrogate pair that is not escaped is not UTF-8
    found = members(body, needed=("key", "val"))
    assert found["val"] == text
    assert key_of(found["key"]) == key.encode()
    assert is_json(found["val"].encode())


@pytest.mark.parametrize(
    "text",
    [
        "1234567890" * 600,  # more digits than Python turns into a number
        "-0.0", "-0", "1.0", "1e400", "1E+2", "0.1000000000000000055511151231257827",
        '"\\u00e9\\ud83d\\ude00"', '"é😀"', '"\\ud800"', '"\\/"',
        '{"a":1,"a":2}', '{ "b" : [ ] , "a" : { } }', "[1,\n2]", '""', "null", "[[[[]]]]",
    ],
)  # fmt: skip
def test_texts_that_parsers_change(text: str) -> None:
    assert members(f' {{ "key" : "k" ,\t"val" : {text}\n}} '.encode(), needed=("key", "val"))["val"] == text
    assert is_json(text.encode())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{", "expecting a name in double quotes"),
        (b"{}", 'the body has no "key"'),
        (b'{"key": "k"}', 'the body has no "val"'),
        (b'{"key": "k", "val": }', "expecting value"),
        (b'{"key": "k", "val": 1', "expecting ',' or '}'"),
        (b'{"key": "k", "val": 1,}', "a comma before '}'"),
        (b'{"key": "k", "val": 1} x', "something follows the JSON object, at character 24"),
        (b'{"key": "k" "val": 1}', "expecting ',' or '}'"),
        (b'{"key" "k", "val": 1}', "expecting ':'"),
        (b"{'key': 1}", "expecting a name in double quotes"),
        (b'{"key": "k", "val": NaN}', "NaN is not JSON"),
        (b'{"key": "k", "val": [-Infinity]}', "-Infinity is not JSON"),
        (b'{"key": "k", "val": 01}', "expecting ',' or '}'"),
        (b'{"key": "k", "val": .5}', "expecting value"),
        (b'{"key": "k", "val": "a\nb"}', "invalid control character"),
        (b'{"key": "k", "key": "l", "val": 1}', '"key" comes twice'),
        (b'{"key": "k", "value": 1}', '"value" is no member of this request'),
        (b'{"key": "k", "val": "\xff"}', "byte 22 of the body is not UTF-8"),
        (b'\xef\xbb\xbf{"key": "k", "val": 1}', "not a JSON object"),
        (b'{"key": "k", "val": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_request_is_named(body: bytes, told: str) -> None:
    with pytest.raises(HttpError) as caught:
        members(body, needed=("key", "val"))
    assert caught.value.status == 400
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1", "not a string but 1"),
        ("null", "not a string"),
        ('["k"]', "not a string"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('""', "empty"),
    ],
)
def test_what_is_no_key_is_named(text: str, told: str) -> None:
    with pytest.raises(HttpError, match=told):
        key_of(text)


@pytest.mark.parametrize("value", [b"", b"shipped", b"\xff", b"NaN", b"{", b"1 2", b"[" * 200_000])
def test_bytes_that_are_no_json(value: bytes) -> None:
    assert not is_json(value)
