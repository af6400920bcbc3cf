"""The one way in which the client repeats: the attempts of an operation, their waits, and their end.

`Backoff` holds the waits of an operation until its deadline. `Attempts` adds the addresses: which endpoint is asked next, and
what an error means for the next attempt (see rules.py). Unary calls, batches of commands, scans and watches all use `Attempts`;
what waits for a slot map or a moving slot uses `Backoff`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import Next, Rule, rule_of
from ravelctl.client.connection.tls import HandshakeError
from ravelctl.client.errors import (
    BusyError,
    ClientMisusedError,
    DeadlineError,
    NoLeaderError,
    NotLeaderError,
    RavelError,
    UnreachableError,
)

ATTEMPT_SHARE: Final = 0.5
"""The share of the time left that one attempt may take, if another one can follow."""

LAST_MOMENT_S: Final = 0.1
"""No repetition begins so shortly before the deadline, or in the last quarter of the time if that is shorter: a write that can
hardly be answered in time would only turn "no leader" into "unknown"."""


def last_moment_s(timeout_s: float) -> float:
    """Return the length of the last moment of an operation that may take `timeout_s`."""
    return min(LAST_MOMENT_S, timeout_s / 4)


def no_time(timeout_s: float) -> DeadlineError:
    """Return the error of a call that was given no time."""
    return DeadlineError(f"the call was given {timeout_s:g} s, so nothing was done", next_step="allow more time")


class Backoff:
    """The waits between the attempts of one operation. Used by one task."""

    def __init__(self, retry: RetryPolicy, timeout_s: float | None = None) -> None:
        """Without `timeout_s` the waits have no end. Raises DeadlineError if the time is over before it begins."""
        self._retry = retry
        self._timeout_s = timeout_s
        self._latest: float | None = None  # no attempt begins after it
        self._deadline: float | None = None
        self.waits = 0  # in a row
        if timeout_s is not None:
            self.restart(timeout_s)

    def restart(self, timeout_s: float | None) -> None:
        """Begin again, with so much time from now on."""
        self.waits = 0
        self._timeout_s = timeout_s
        if timeout_s is None:
            self._latest = self._deadline = None
            return
        if not timeout_s > 0:
            raise no_time(timeout_s)
        now = asyncio.get_running_loop().time()
        self._deadline = now + timeout_s
        self._latest = self._deadline - last_moment_s(timeout_s)

    @property
    def timeout_s(self) -> float | None:
        return self._timeout_s

    @property
    def left_s(self) -> float | None:
        """The time left; None: there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    @property
    def is_over(self) -> bool:
        """Whether no further attempt may begin."""
        return self._latest is not None and asyncio.get_running_loop().time() >= self._latest

    async def wait(self, *, at_least_s: float = 0.0) -> None:
        """Wait for the next attempt, at most until the last moment begins."""
        self.waits += 1
        delay_s = self._retry.delay_s(self.waits, random.random, at_least_s=at_least_s)
        if self._latest is not None:
            delay_s = min(delay_s, max(0.0, self._latest - asyncio.get_running_loop().time()))
        await asyncio.sleep(delay_s)

    def gave_up(self, error: RavelError) -> RavelError:
        """Return the error of an operation whose time ran out while this error kept it waiting."""
        within = "in time" if self._timeout_s is None else f"within {self._timeout_s:.3g} s"
        return error.reworded(f"gave up {within}: {error.message}")


class Obstacles:
    """The last error of each endpoint: the source of the error of a call whose time has run out."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, RavelError] = {}

    def note(self, endpoint: str, error: RavelError) -> None:
        self._by_endpoint.pop(endpoint, None)  # so that the newest stands last
        self._by_endpoint[endpoint] = error

    def __bool__(self) -> bool:
        return bool(self._by_endpoint)

    def clear(self) -> None:
        self._by_endpoint.clear()

    def deadline_error(self, timeout_s: float | None = None) -> RavelError:
        """Return the error of a call that did nothing until its time ran out.

        A server that answered says more than one that cannot be reached, and a server of the cluster that is meant says more
        than one of another cluster; of equal ones the newest answer counts.
        """
        within = "in time" if timeout_s is None else f"within {timeout_s:.3g} s"
        found = list(self._by_endpoint.items())
        answers = [error for _, error in found if not isinstance(error, UnreachableError)]
        if not found:
            return DeadlineError(f"the cluster did not answer {within}", next_step="see `ravelctl status`, or allow more time")
        if not answers:
            return _unreachable(found, within)
        last = next((error for error in reversed(answers) if rule_of(error).next is not Next.OTHER_ADDRESS), answers[-1])
        if isinstance(last, (NotLeaderError, NoLeaderError)):
            return NoLeaderError(
                f"no leader was found {within}: {last.message}", metadata=last.metadata, next_step="see `ravelctl status`"
            )
        return last.reworded(f"gave up {within}: {last.message}")


def _unreachable(found: list[tuple[str, RavelError]], within: str) -> UnreachableError:
    listed = ", ".join(endpoint for endpoint, _ in found)
    word = "endpoint" if len(found) == 1 else "endpoints"
    # A daemon that fails the TLS handshake is there: that says more than one that is not.
    tells = next((error for _, error in reversed(found) if isinstance(error, HandshakeError)), None)
    return UnreachableError(
        f"no daemon answered {within} ({word} {listed}): {(tells or found[-1][1]).message}",
        next_step=tells.next_step if tells is not None else "check the addresses, and that the daemons run",
    )


class Attempts:
    """The attempts of one operation at one cluster, or those of a stream that carries many. Used by one task.

    The caller takes an endpoint from `choose`, makes its attempt, and reports the result with `served` or `failed`.
    """

    def __init__(
        self,
        connections: Connections,
        retry: RetryPolicy,
        *,
        timeout_s: float | None = None,
        backoff: Backoff | None = None,
        any_replica: bool = False,
        carries_many: bool = False,
    ) -> None:
        """`backoff` takes the place of a new one with `timeout_s`. `any_replica`: not only the leader can do it.
        `carries_many`: the attempts serve many calls, each with a deadline of its own, so an error that ends an attempt is the
        answer to none of them, and only addresses that are all wrong end them.

        Raises DeadlineError if `timeout_s` is over before it begins.
        """
        self.connections = connections
        self.obstacles = Obstacles()
        self.backoff = backoff or Backoff(retry, timeout_s)
        self._retry = retry
        self._any_replica = any_replica
        self._carries_many = carries_many
        self._failures = 0  # in a row
        self._tried: set[str] = set()  # since the last progress

    def choose(self) -> str:
        """Return the endpoint of the next attempt. Raises InvalidArgumentError without endpoints, ClientMisusedError."""
        self.connections.owner.check()
        return self.connections.choose_any(self._tried) if self._any_replica else self.connections.choose(self._tried)

    def limit_s(self, *, alone: bool = False) -> float | None:
        """Return how long one attempt may take; `alone`: no other one can follow it. None: as long as it takes."""
        left_s = self.backoff.left_s
        if left_s is None or alone:
            return left_s
        return max(left_s * ATTEMPT_SHARE, min(left_s, self._retry.progress_timeout_s))

    def served(self, endpoint: str) -> None:
        """Take in that an attempt did what was asked: earlier failures do not count any more."""
        self.connections.served(endpoint, leads=not self._any_replica)
        self.progressed()

    def progressed(self) -> None:
        """Forget the failures: what fails next is a new trouble."""
        self._failures = 0
        self.backoff.waits = 0
        self._tried.clear()
        self.obstacles.clear()

    @property
    def tried(self) -> set[str]:
        """The endpoints that have failed since the last progress."""
        return self._tried

    async def failed(self, endpoint: str, error: RavelError, *, rule: Rule | None = None) -> None:
        """Take in why an attempt failed, and return when the next one may begin.

        Raises the error of the operation if no further attempt can help: `error` itself, or the most telling one of all attempts.
        `rule` takes the place of the table's for what only this operation knows.
        """
        rule = rule or rule_of(error)
        if rule.next is Next.RAISE and (not self._carries_many or isinstance(error, ClientMisusedError)):
            raise error
        self._failures += 1
        self._tried.add(endpoint)
        self.obstacles.note(endpoint, error)
        at_once = await self.connections.failed(endpoint, error, attempt=self._failures, limit_s=self.backoff.left_s)
        if self.connections.hopeless:
            raise error
        if self.backoff.is_over:
            raise self.obstacles.deadline_error(self.backoff.timeout_s)
        if not at_once and not self._may_go_on_at_once(rule):
            await self.backoff.wait(at_least_s=error.retry_after_s if isinstance(error, BusyError) else 0.0)
            if self.backoff.is_over:
                raise self.obstacles.deadline_error(self.backoff.timeout_s)

    def _may_go_on_at_once(self, rule: Rule) -> bool:
        """Return whether the next attempt needs no wait: with a new session, or at a replica that was not tried yet."""
        if rule.next is Next.NEW_SESSION:
            return self._failures <= self._retry.redirects_free
        return self._any_replica and self.connections.has_other(self._tried)
