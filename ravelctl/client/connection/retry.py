"""The waits of a client between attempts. Pure: chance is an argument, and no clock is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The waits of a client. All in seconds.

    Wait number n in a row is drawn from the upper half of `backoff_min_s` x `backoff_growth`^(n - 1), at most `backoff_max_s`:
    callers that were refused together do not come back together. With growth g the next wait is about g - 1 times the sum of all
    before it, so the client notices the end of an outage after a seventh of its length at most.
    """

    backoff_min_s: float = 0.02
    backoff_max_s: float = 0.5
    backoff_growth: float = 1.15
    redirects_free: int = 2  # how many times in a row a named leader is followed without a wait
    connect_timeout_s: float = 1.0
    progress_timeout_s: float = 1.5  # a server that answers no waiting request for so long is taken to hang
    suspicion_s: float = 1.0  # how long a hanging server is asked only if there is no other

    def __post_init__(self) -> None:
        if found := list(self._problems()):
            raise ValueError("; ".join(found))

    def _problems(self) -> list[str]:
        waits = ("backoff_min_s", "backoff_max_s", "connect_timeout_s", "progress_timeout_s")
        found = [f"{name} ({getattr(self, name)}) must be above 0" for name in waits if not getattr(self, name) > 0]
        if self.backoff_min_s > self.backoff_max_s:
            found.append(f"backoff_min_s ({self.backoff_min_s}) must not exceed backoff_max_s ({self.backoff_max_s})")
        if not self.backoff_growth > 1:
            found.append(f"backoff_growth ({self.backoff_growth}) must be above 1")
        if self.redirects_free < 0:
            found.append(f"redirects_free ({self.redirects_free}) must not be negative")
        if self.suspicion_s < 0:
            found.append(f"suspicion_s ({self.suspicion_s}) must not be negative")
        return found

    def delay_s(self, number: int, random: Callable[[], float], *, at_least_s: float = 0.0) -> float:
        """Return wait number 1, 2, ... in a row, for a `random()` in [0, 1); `at_least_s`: the wait that the server asked for."""
        # The exponent is bounded so that a client that waits for days does not compute astronomic powers.
        full_s = min(self.backoff_max_s, self.backoff_min_s * self.backoff_growth ** min(number - 1, 100))
        return max(at_least_s, full_s * (0.5 + 0.5 * random()))
