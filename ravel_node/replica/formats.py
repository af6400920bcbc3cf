"""Rolling upgrades: which kinds of commands every member knows.

Each member's record tells the newest format that its version applies (machine.envelope.FORMAT). A kind of a later format is
proposed only once all of them have reached it, since a replica that meets a kind which it does not know must stop; and only then
do entries carry a time. And no server of an earlier format is taken in after that: the log may hold such commands, or soon will.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.envelope import DRAWN_SESSION_IDS_SINCE, TIMED_SINCE, Kind, required_format
from ravel_node.replica.errors import UnsupportedVersionError


def require_known(kind: Kind, members: Iterable[MemberRecord]) -> None:
    """Raises UnsupportedVersionError, naming those members whose version does not know the kind."""
    needed = required_format(kind)
    behind = [f"{member.name} (version {member.version}, format {member.format})" for member in members if member.format < needed]
    if behind:
        raise UnsupportedVersionError(
            f"{kind.name.lower()} entries need format {needed}, which is not known to {', '.join(behind)}: upgrade "
            f"{'it' if len(behind) == 1 else 'them'} first"
        )


def common_format(members: Iterable[MemberRecord]) -> int:
    """Return the newest format that every member applies; 0 where no record is known."""
    return min((member.format for member in members if not member.removed), default=0)


def all_read_times(members: Iterable[MemberRecord]) -> bool:
    """Return whether every member applies payloads that carry a time."""
    return common_format(members) >= TIMED_SINCE


def draw_client_id(members: Iterable[MemberRecord], rng: Random) -> int:
    """Return an id for a new session, at random; 0 while some member only knows ids that the machine makes.

    An id that is made of the log index is given out again by a cluster that was restored from a snapshot: a client of the old
    cluster and one of the new one would then hold the same id, and get each other's stored answers.
    """
    return rng.randrange(1, 1 << 63) if common_format(members) >= DRAWN_SESSION_IDS_SINCE else 0


def require_not_behind(joiner: MemberRecord, members: Sequence[MemberRecord]) -> None:
    """Raises UnsupportedVersionError for a server that may meet kinds which it does not know."""
    common = min((member.format for member in members), default=joiner.format)
    if joiner.format < common:
        raise UnsupportedVersionError(
            f"{joiner.name} (version {joiner.version}) knows format {joiner.format}, and all members know {common}, so the log "
            "may hold commands that it does not know: upgrade it before it joins"
        )
