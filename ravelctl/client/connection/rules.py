"""The table of reasons: what each proves about an attempt, and what the client does next.

One table serves unary calls, batched commands, scans and watches. A reason that is missing here is a fault of the client, which a
test finds. `rule_of` looks for the class of an error first, because gRPC's own failures share a reason with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from ravelctl.client.connection.failures import ConnectionLostError, NotOfferedError
from ravelctl.client.errors import LocalReason, RavelError
from ravelpb.errors import Field, Reason


class Next(Enum):
    """The client's next step after a reason."""

    RAISE = "raise the error: another attempt would end in the same way"
    ELSEWHERE = "ask another replica: the leader if the error names one"
    LATER = "wait, then ask again"
    OTHER_ADDRESS = "ask another address: this one does not belong to the cluster that is meant"
    NEW_SESSION = "register a new session, then ask again"
    NEW_MAP = "ask the owner of the slot, by a newer slot map"


class Rule(NamedTuple):
    """`nothing_done`: this attempt did nothing and never will. Without that proof a write may have happened."""

    next: Next
    nothing_done: bool


_NOTHING: Final = True
_MAYBE: Final = False
_REFUSED: Final = Rule(Next.RAISE, _NOTHING)

RULES: Final[Mapping[Reason | LocalReason | type[RavelError], Rule]] = {
    # the replica cannot serve the call; another one, or the same one later, can
    Reason.NOT_LEADER: Rule(Next.ELSEWHERE, _NOTHING),
    Reason.NO_LEADER: Rule(Next.LATER, _NOTHING),
    Reason.BLANK: Rule(Next.LATER, _NOTHING),
    Reason.REMOVED: Rule(Next.ELSEWHERE, _NOTHING),
    Reason.DIRECTORY_OUTDATED: Rule(Next.ELSEWHERE, _NOTHING),
    Reason.DIRECTORY_COPIED: Rule(Next.ELSEWHERE, _NOTHING),
    Reason.SHUTTING_DOWN: Rule(Next.ELSEWHERE, _NOTHING),  # a command that reached the log before the stop is OUTCOME_UNKNOWN
    Reason.STOPPED: Rule(Next.ELSEWHERE, _MAYBE),
    Reason.BUSY: Rule(Next.LATER, _NOTHING),
    Reason.OUTCOME_UNKNOWN: Rule(Next.ELSEWHERE, _MAYBE),
    Reason.TIMEOUT: Rule(Next.ELSEWHERE, _MAYBE),
    LocalReason.UNREACHABLE: Rule(Next.ELSEWHERE, _NOTHING),  # nothing was sent
    ConnectionLostError: Rule(Next.ELSEWHERE, _MAYBE),
    # the address belongs to another cluster or service
    Reason.WRONG_CLUSTER_ID: Rule(Next.OTHER_ADDRESS, _NOTHING),
    Reason.NOT_ADMIN: Rule(Next.OTHER_ADDRESS, _NOTHING),
    Reason.ADMIN_GROUP: Rule(Next.OTHER_ADDRESS, _NOTHING),
    NotOfferedError: Rule(Next.OTHER_ADDRESS, _NOTHING),
    # the session or the slot map is out of date
    Reason.SESSION_EXPIRED: Rule(Next.NEW_SESSION, _NOTHING),
    Reason.WRONG_CLUSTER: Rule(Next.NEW_MAP, _NOTHING),
    Reason.SLOT_MOVING: Rule(Next.NEW_MAP, _NOTHING),
    # every replica would refuse the call
    Reason.ALREADY_MEMBER: _REFUSED,
    Reason.WRONG_IDENTITY: _REFUSED,
    Reason.UNKNOWN_MEMBER: _REFUSED,
    Reason.NAME_TAKEN: _REFUSED,
    Reason.ADDRESS_TAKEN: _REFUSED,
    Reason.SUPERSEDED: _REFUSED,
    Reason.STALE_REPORT: _REFUSED,
    Reason.LAST_REPLICA: _REFUSED,
    Reason.CLUSTER_IN_USE: _REFUSED,
    Reason.MOVE_REFUSED: _REFUSED,
    Reason.QUOTA_EXCEEDED: _REFUSED,
    Reason.UNSUPPORTED_VERSION: _REFUSED,
    Reason.INVALID_ARGUMENT: _REFUSED,
    Reason.KEY_EMPTY: _REFUSED,
    Reason.KEY_TOO_LARGE: _REFUSED,
    Reason.VALUE_TOO_LARGE: _REFUSED,
    Reason.REQUEST_TOO_LARGE: _REFUSED,
    Reason.NOT_FOUND: _REFUSED,
    Reason.UNSAFE_CHANGE: _REFUSED,
    Reason.STALE_VIEW: _REFUSED,
    Reason.CHANGE_IN_PROGRESS: _REFUSED,
    Reason.UNREACHABLE_MEMBER: _REFUSED,
    Reason.NOT_CAUGHT_UP: _REFUSED,
    Reason.COMPACTED: _REFUSED,  # of one replica's log: a watch asks the others first
    LocalReason.CLOSED: _REFUSED,
    LocalReason.NOT_SENT: _REFUSED,
    LocalReason.MISUSED: _REFUSED,
    # nobody can say what the attempt did, and another one would not help
    Reason.TRANSFER_FAILED: Rule(Next.RAISE, _MAYBE),
    Reason.INTERNAL: Rule(Next.RAISE, _MAYBE),
}


def rule_of(error: RavelError) -> Rule:
    """Return the rule for an error.

    A WRONG_CLUSTER_ID that names no cluster is no refusal of the address: the admin refuses the server that registers with it.
    """
    for ancestor in type(error).__mro__:
        if ancestor in RULES:
            return RULES[ancestor]
    if error.reason is Reason.WRONG_CLUSTER_ID and Field.CLUSTER_ID not in error.metadata:
        return _REFUSED
    return RULES[error.reason]


NOTHING_DONE: Final = frozenset(reason for reason, rule in RULES.items() if isinstance(reason, Reason) and rule.nothing_done)
"""Reasons of a server's answer which prove that the answered call did nothing."""

RETRYABLE: Final = frozenset(
    reason
    for reason, rule in RULES.items()
    if isinstance(reason, Reason | LocalReason) and rule.next in (Next.ELSEWHERE, Next.LATER)
)
"""Reasons that another replica, or the same one a little later, may not have."""

_REFUSES_STREAM: Final = frozenset({Reason.BLANK, Reason.BUSY, Reason.SHUTTING_DOWN, Reason.WRONG_CLUSTER_ID, Reason.ADMIN_GROUP})


def nothing_unanswered_was_done(error: RavelError) -> bool:
    """Return whether a Session that ended with this error did nothing for the requests that it has not answered.

    A daemon refuses a stream before it reads from it; one that shuts down answers every request that it has read.
    """
    return error.reason in _REFUSES_STREAM or isinstance(error, NotOfferedError)
