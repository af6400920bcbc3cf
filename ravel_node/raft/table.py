"""Which function takes which message in which role: every transition, in one place.

Each pair of role and message type stands in exactly one of three tables. HANDLERS: something is done. SUSPECT: a
correct replica can never receive this, so it is ignored with a SafetyEvent. IGNORED: it may well arrive, late or by a
detour, and means nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ravel_node.raft import candidate, election, follower, leader, local
from ravel_node.raft.types import Message, MessageType, Role

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft

Handler = Callable[["Raft", Message], None]
Pair = tuple[Role, MessageType]

_CANDIDATES: Final = (Role.PRE_CANDIDATE, Role.CANDIDATE)
_OTHERS: Final = (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)

HANDLERS: Final[dict[Pair, Handler]] = {
    **{(role, MessageType.HUP): election.handle_hup for role in Role},
    **{(role, MessageType.VOTE): election.handle_vote_request for role in Role},
    **{(role, MessageType.PRE_VOTE): election.handle_vote_request for role in Role},
    **{(role, MessageType.STORAGE_APPEND_RESPONSE): local.handle_saved for role in Role},
    **{(role, MessageType.STORAGE_APPLY_RESPONSE): local.handle_applied for role in Role},
    (Role.FOLLOWER, MessageType.PROPOSE): follower.handle_propose,
    (Role.FOLLOWER, MessageType.APPEND): follower.handle_append,
    (Role.FOLLOWER, MessageType.HEARTBEAT): follower.handle_heartbeat,
    (Role.FOLLOWER, MessageType.SNAPSHOT): follower.handle_snapshot,
    (Role.FOLLOWER, MessageType.READ_INDEX): follower.handle_read_index,
    (Role.FOLLOWER, MessageType.READ_INDEX_RESPONSE): follower.handle_read_index_response,
    (Role.FOLLOWER, MessageType.TRANSFER_LEADER): follower.handle_transfer,
    (Role.FOLLOWER, MessageType.TIMEOUT_NOW): follower.handle_timeout_now,
    (Role.FOLLOWER, MessageType.FORGET_LEADER): follower.handle_forget_leader,
    **{(role, MessageType.PROPOSE): candidate.handle_propose for role in _CANDIDATES},
    **{(role, MessageType.APPEND): candidate.handle_append for role in _CANDIDATES},
    **{(role, MessageType.HEARTBEAT): candidate.handle_heartbeat for role in _CANDIDATES},
    **{(role, MessageType.SNAPSHOT): candidate.handle_snapshot for role in _CANDIDATES},
    (Role.PRE_CANDIDATE, MessageType.PRE_VOTE_RESPONSE): candidate.handle_vote_answer,
    (Role.CANDIDATE, MessageType.VOTE_RESPONSE): candidate.handle_vote_answer,
    (Role.LEADER, MessageType.BEAT): leader.handle_beat,
    (Role.LEADER, MessageType.CHECK_QUORUM): leader.handle_check_quorum,
    (Role.LEADER, MessageType.PROPOSE): leader.handle_propose,
    (Role.LEADER, MessageType.APPEND_RESPONSE): leader.handle_append_response,
    (Role.LEADER, MessageType.HEARTBEAT_RESPONSE): leader.handle_heartbeat_response,
    (Role.LEADER, MessageType.SNAPSHOT_STATUS): leader.handle_snapshot_status,
    (Role.LEADER, MessageType.UNREACHABLE): leader.handle_unreachable,
    (Role.LEADER, MessageType.READ_INDEX): leader.handle_read_index,
    (Role.LEADER, MessageType.TRANSFER_LEADER): leader.handle_transfer,
}

SUSPECT: Final[frozenset[Pair]] = frozenset(
    {
        # Two leaders in one term.
        (Role.LEADER, MessageType.APPEND),
        (Role.LEADER, MessageType.HEARTBEAT),
        (Role.LEADER, MessageType.SNAPSHOT),
        # Work for the local writer and the local state machine, which a core only gives out.
        *((role, MessageType.STORAGE_APPEND) for role in Role),
        *((role, MessageType.STORAGE_APPLY) for role in Role),
    }
)

IGNORED: Final[frozenset[Pair]] = frozenset(
    {
        # Answers to what this replica asked in a role that it has left.
        *((role, MessageType.APPEND_RESPONSE) for role in _OTHERS),
        *((role, MessageType.HEARTBEAT_RESPONSE) for role in _OTHERS),
        *((role, MessageType.VOTE_RESPONSE) for role in Role if role is not Role.CANDIDATE),
        *((role, MessageType.PRE_VOTE_RESPONSE) for role in Role if role is not Role.PRE_CANDIDATE),
        *((role, MessageType.READ_INDEX_RESPONSE) for role in Role if role is not Role.FOLLOWER),
        # Reports and requests for a leader that is one no more.
        *((role, MessageType.BEAT) for role in _OTHERS),
        *((role, MessageType.CHECK_QUORUM) for role in _OTHERS),
        *((role, MessageType.SNAPSHOT_STATUS) for role in _OTHERS),
        *((role, MessageType.UNREACHABLE) for role in _OTHERS),
        # Without a leader there is nobody to ask, to follow, or to forget.
        *((role, MessageType.READ_INDEX) for role in _CANDIDATES),
        *((role, MessageType.TRANSFER_LEADER) for role in _CANDIDATES),
        *((role, MessageType.TIMEOUT_NOW) for role in Role if role is not Role.FOLLOWER),
        *((role, MessageType.FORGET_LEADER) for role in Role if role is not Role.FOLLOWER),
    }
)

_ROWS: Final = tuple(tuple(HANDLERS.get((role, kind)) for kind in MessageType) for role in Role)


def handler_for(role: Role, kind: MessageType) -> Handler | None:
    """The function that takes `kind` in `role`, None if it is ignored or suspect."""
    return _ROWS[role][kind]
