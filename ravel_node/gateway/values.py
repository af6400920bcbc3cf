"""JSON in and out, to the letter.

A value is kept as the very text that was sent, and spliced into the answer: so nothing becomes of a number of forty digits, of
1.0, 1e400 or -0.0, of the order of members or of a name that comes twice. What is no JSON text, NaN and Infinity among it, is
refused. The members of a request itself are few and must come once.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from ravel_node.gateway.errors import HttpError
from ravelpb.errors import Reason

_SPACE: Final = re.compile(r"[ \t\n\r]*")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# Numbers are only looked at: how large they are, and what a float would make of them, plays no part.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_number)


def members(body: bytes, *, needed: tuple[str, ...]) -> dict[str, str]:
    """The members of a JSON object as the texts they were written in: exactly those that are needed.

    Raises HttpError (400) that names the fault.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise bad_json(f"byte {error.start + 1} of the body is not UTF-8") from None
    found: dict[str, str] = {}
    try:
        at = _after_space(text, 0)
        if text[at : at + 1] != "{":
            raise bad_json(f"the body is not a JSON object like {_example(needed)}")
        at = _after_space(text, at + 1)
        while text[at : at + 1] != "}":
            at = _take_member(text, at, found, needed)
        if (at := _after_space(text, at + 1)) != len(text):
            raise bad_json(f"something follows the JSON object, at character {at + 1}")
    except RecursionError:
        raise bad_json("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise bad_json(f"the body is not JSON: {_lower(error.msg)} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:
        raise bad_json(f"the body is not JSON: {error}") from None
    if missing := [name for name in needed if name not in found]:
        raise bad_json(f'the body has no "{missing[0]}": it is to be like {_example(needed)}')
    return found


def _take_member(text: str, at: int, found: dict[str, str], needed: tuple[str, ...]) -> int:
    """Read one member and what separates it from the next; returns where that begins."""
    if text[at : at + 1] != '"':
        raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
    name, at = _DECODER.raw_decode(text, at)
    if name not in needed:
        raise bad_json(f"{json.dumps(name)} is no member of this request, which is like {_example(needed)}")
    if name in found:
        raise bad_json(f'"{name}" comes twice')
    at = _after_space(text, at)
    if text[at : at + 1] != ":":
        raise json.JSONDecodeError("Expecting ':'", text, at)
    start = _after_space(text, at + 1)
    _, at = _DECODER.raw_decode(text, start)
    found[name] = text[start:at]
    at = _after_space(text, at)
    if text[at : at + 1] == ",":
        at = _after_space(text, at + 1)
        if text[at : at + 1] == "}":
            raise json.JSONDecodeError("A comma before '}'", text, at)
    elif text[at : at + 1] != "}":
        raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
    return at


def key_of(text: str) -> bytes:
    """The key that a JSON text stands for. Raises HttpError (400)."""
    key: Any = json.loads(text) if text.startswith('"') else None
    if not isinstance(key, str):
        raise bad_json(f'"key" is not a string but {text[:40]}')
    if not key:
        raise HttpError(400, Reason.KEY_EMPTY, "the key is empty", next_step="a key has 1 to 480 bytes")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise bad_json('"key" has half of a surrogate pair, which stands for no character') from None


def is_json(value: bytes) -> bool:
    """Whether these bytes are one JSON text."""
    try:
        _DECODER.decode(value.decode())
    except (ValueError, RecursionError):
        return False
    return True


def bad_json(message: str) -> HttpError:
    return HttpError(400, Reason.INVALID_ARGUMENT, message)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


def _example(needed: tuple[str, ...]) -> str:
    return '{"key": "k", "val": 1}' if "val" in needed else '{"key": "k"}'


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
