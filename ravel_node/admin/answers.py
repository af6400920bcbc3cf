"""What the directory's commands are answered: canonical JSON in `Outcome.value`.

An answer is an object as told with each command; a refusal is {"message": sentence, "reason": one of ravelpb.errors.Reason} with
Status.REFUSED, and nothing was changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from ravel_node.machine.base import Outcome, Status
from ravelpb.errors import Reason

Value = int | bool | list[int]
"""What an answer holds under a name."""

_REASONS: Final = frozenset(Reason)


class RefusedError(Exception):
    """The directory refused a command; nothing was changed. `reason` for programs, `message` for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        self.message = message
        super().__init__(message)


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces, in ASCII: the same value is the same bytes. A frozen value is its fields."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=field_values)
    return text.encode("ascii")


def field_values(value: Any) -> dict[str, Any]:
    """The fields of a frozen value, as they are."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def answered(value: Mapping[str, Value]) -> Outcome:
    return Outcome(Status.OK, value=canonical(dict(value)))


def refused(reason: Reason, message: str) -> Outcome:
    return Outcome(Status.REFUSED, value=canonical({"message": message, "reason": reason.value}))


def read_answer(outcome: Outcome) -> dict[str, Any]:
    """The object of an answer. Raises RefusedError for a refusal; one of another kind of machine is a plain sentence, and is told
    with INVALID_ARGUMENT."""
    if outcome.status is Status.OK:
        answer = json.loads(outcome.value)
        return answer if isinstance(answer, dict) else {}
    text = outcome.value.decode(errors="backslashreplace")
    try:
        refusal = json.loads(text)
    except ValueError:
        refusal = None
    if not isinstance(refusal, dict) or refusal.get("reason") not in _REASONS:
        raise RefusedError(Reason.INVALID_ARGUMENT, text)
    raise RefusedError(Reason(refusal["reason"]), str(refusal.get("message", "")))
