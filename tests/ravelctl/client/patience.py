"""Calls that must end in an error when their time is up, also on a machine that is too busy to get that far in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ravelctl.client import RavelError

E = TypeVar("E", bound=RavelError)

LIMITS_S = (0.3, 1.0, 3.0, 10.0, 30.0)


async def ends_in(kind: type[E], call: Callable[[float], Awaitable[object]]) -> E:
    """The error of the first call, with more time each, that ends in this kind of error.

    A call whose time is up while its last attempt is on its way ends otherwise, since nobody knows what comes of that.
    """
    last: RavelError | None = None
    for limit_s in LIMITS_S:
        try:
            await call(limit_s)
        except kind as error:
            return error
        except RavelError as error:
            last = error
        else:
            raise AssertionError("it was done")
    raise AssertionError(f"it never ended in {kind.__name__}: {last!r}") from last
