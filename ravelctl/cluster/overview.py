"""A cluster at one look: the answers of its daemons, put together into one value. Pure but for `survey`, which asks.

The leader's view counts where there is one: it alone knows how far the others are. A daemon's own answer adds what only it knows,
such as the size of its store. Daemons that do not answer are part of the picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, age_text, size_text
from ravelctl.client.connection.tls import HandshakeError
from ravelctl.client.errors import RavelError, UnsupportedVersionError, WrongServerError
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

SNAPSHOT_NOTICE: Final = "RV207"
CAUGHT_UP_LAG_MAX: Final = 1_000
"""Entries. A replicating voter that is further behind does not count as one that could carry on alone."""
ANSWER_TIMEOUT_S: Final = 2.0
"""How long one daemon may take to say how it does, unless --timeout says otherwise: a hung one must not hold up the look."""
_ROUNDS_MAX: Final = 3  # an endpoint names members, which may name newer ones


Answers = Mapping[str, "pb.StatusResponse | RavelError"]


class Health(StrEnum):
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    NO_QUORUM = "NO QUORUM"
    NO_LEADER = "NO LEADER"
    BLANK = "BLANK"


EXIT_OF_HEALTH: Final[Mapping[Health, ExitCode]] = {
    Health.HEALTHY: ExitCode.DONE,
    Health.DEGRADED: ExitCode.DEGRADED,
    Health.NO_QUORUM: ExitCode.NO_LEADER,
    Health.NO_LEADER: ExitCode.NO_LEADER,
    Health.BLANK: ExitCode.NO_LEADER,
}


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One daemon. None: not known, or it has no meaning here."""

    name: str
    replica_id: U64
    server_id: str
    address: str
    role: str  # leader, voter, learner, leaving, removed, blank
    state: str  # the leader's word (probe, replicate, snapshot), else the replica's own role; empty on the leader
    match: U64 | None
    lag: U64 | None
    contact_s: float | None
    applied_index: U64 | None
    db_used_bytes: U64 | None
    db_size_max_bytes: U64 | None
    version: str
    answers: bool
    error: str  # why it does not answer


@dataclass(frozen=True, slots=True)
class Alarm:
    code: str
    message: str
    replica_id: U64
    name: str  # of that replica, empty if nobody knows it


@dataclass(frozen=True, slots=True)
class Overview:
    health: Health
    cluster_id: str
    cluster_name: str
    term: U64
    leader: str  # its name; empty: none known
    leader_age_s: float | None
    commit_index: U64
    revision: U64
    quorum: int
    live: int
    tolerates: int | None  # failures of voters that leave a quorum; None without a leader
    replicas: tuple[ReplicaRow, ...]
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]


async def survey(
    client: ClusterClient, endpoints: Sequence[str], *, timeout_s: float | None
) -> dict[str, pb.StatusResponse | RavelError]:
    """Ask the endpoints, then whomever they name as members, all at once. Never raises for a daemon that does not answer."""
    answers: dict[str, pb.StatusResponse | RavelError] = {}
    wanted = list(endpoints)
    for _ in range(_ROUNDS_MAX):
        if not wanted:
            break
        found = await asyncio.gather(*(_ask(client, address, timeout_s) for address in wanted))
        answers.update(zip(wanted, found, strict=True))
        wanted = _unasked(answers)
    return answers


async def _ask(client: ClusterClient, address: str, timeout_s: float | None) -> pb.StatusResponse | RavelError:
    try:
        return await client.status(address, timeout_s=ANSWER_TIMEOUT_S if timeout_s is None else timeout_s)
    except RavelError as error:
        return error


def _unasked(answers: Answers) -> list[str]:
    """Addresses of members that have not answered under any address."""
    heard = {status.server.server_id for status in replies(answers).values()}
    members = [member for status in replies(answers).values() for member in status.members]
    named = (m.server.addresses.listen for m in members if m.server.server_id not in heard)
    return list(dict.fromkeys(address for address in named if address and address not in answers))


def replies(answers: Answers) -> dict[str, pb.StatusResponse]:
    """Those that answered."""
    return {address: status for address, status in answers.items() if not isinstance(status, RavelError)}


def require_answer(answers: Answers) -> None:
    """Raises CommandError (exit 3) if nobody answered, naming each and why; WrongServerError if only another cluster did."""
    if not replies(answers):
        if wrong := next((answer for answer in answers.values() if isinstance(answer, WrongServerError)), None):
            raise wrong
        errors = {address: error for address, error in answers.items() if isinstance(error, RavelError)}
        reasons = {why_silent(address, error) for address, error in errors.items()}
        # One reason of all needs no address: they stand before it.
        told = reasons if len(reasons) == 1 else {error.message for error in errors.values()}
        raise CommandError(
            f"no daemon answers at {', '.join(answers)}: {'; '.join(sorted(told))}",
            code=ExitCode.UNREACHABLE,
            next_step=wrong_door_step(answers.values()) or "check that the daemons run, or name others with --endpoints",
            reason="UNREACHABLE",
        )


def why_silent(address: str, error: RavelError) -> str:
    """Its message for a place that has named the address already."""
    return without_place(address, error.message)


def without_place(address: str, message: str) -> str:
    return message.removeprefix(f"{address} cannot be reached: ").removeprefix(f"{address} ")


def wrong_door_step(answers: Iterable[object]) -> str:
    """What to do about the first place where something answers, but no TLS comes about or no such call is served; else empty."""
    return next((answer.next_step for answer in answers if isinstance(answer, (HandshakeError, UnsupportedVersionError))), "")


def chief(answers: Answers) -> pb.StatusResponse | None:
    """The answer to believe: the leader's of the newest term, else the best informed replica's; None: all are blank.

    Raises CommandError (exit 2) where the answers come from several clusters.
    """
    seated = [status for status in replies(answers).values() if not status.blank]
    clusters = {status.header.cluster_id for status in seated}
    if len(clusters) > 1:
        where = "; ".join(f"{a} is in {s.header.cluster_id[:8]}" for a, s in replies(answers).items() if not s.blank)
        raise CommandError(
            f"the endpoints belong to {len(clusters)} clusters: {where}", code=ExitCode.USAGE, next_step="name those of one"
        )
    if not seated:
        return None
    return max(seated, key=lambda s: (s.role == pb.LEADER, not s.removed, s.header.term, s.config_index, s.last_index))


def overview(answers: Answers) -> Overview:
    """One value from all answers. Raises CommandError as `require_answer` and `chief` do."""
    require_answer(answers)
    status = chief(answers)
    if status is None:
        return _nothing_yet(answers)
    leads = status.role == pb.LEADER
    progress = {peer.replica_id: peer for peer in status.progress}
    own = {reply.server.server_id: reply for reply in replies(answers).values()}
    rows = [_member_row(member, status, progress, own, answers) for member in status.members]
    strangers = [reply for reply in own.values() if reply.server.server_id not in {m.server.server_id for m in status.members}]
    voters = [member.replica_id for member in status.members if member.role == pb.VOTER]
    live = [v for v in voters if _live(v, status, progress)]
    caught_up = [v for v in live if _caught_up(v, status, progress)]
    quorum = len(voters) // 2 + 1
    worries = _worries(status, progress, rows)
    alarms = _alarms(own.values(), {member.replica_id: member.server.name for member in status.members})
    leader = next((m.server.name for m in status.members if m.replica_id == status.leader_id), "")
    worry = bool(worries or _bad(own.values())) or len(caught_up) < len(voters)
    return Overview(
        health=_health(leads, len(live) >= quorum, worry),
        cluster_id=status.header.cluster_id,
        cluster_name=status.cluster_name,
        term=U64(status.header.term),
        leader=leader if leads else "",
        leader_age_s=status.leader_age_ms / 1000 if leads else None,
        commit_index=U64(status.commit_index),
        revision=U64(status.revision),
        quorum=quorum,
        live=len(live),
        tolerates=len(caught_up) - quorum if leads else None,
        replicas=(*rows, *map(_stranger_row, strangers)),
        alarms=alarms,
        notes=(*worries, *_remarks(status, answers), *_versions(rows), *_about_strangers(strangers, status)),
    )


def _health(leads: bool, quorum_lives: bool, worry: bool) -> Health:
    if not leads:
        return Health.NO_LEADER
    if not quorum_lives:
        return Health.NO_QUORUM
    return Health.DEGRADED if worry else Health.HEALTHY


def heard(status: pb.StatusResponse, peer: pb.PeerProgress) -> bool:
    """Whether the leader has heard a peer within an election timeout.

    `recent_active` alone is false for a moment after each of the leader's own checks, until the next answer.
    """
    return peer.recent_active or (peer.contacted and peer.contact_age_ms <= status.election_timeout_ms)


def _live(voter: int, status: pb.StatusResponse, progress: Mapping[int, pb.PeerProgress]) -> bool:
    return voter == status.header.replica_id or (voter in progress and heard(status, progress[voter]))


def _caught_up(voter: int, status: pb.StatusResponse, progress: Mapping[int, pb.PeerProgress]) -> bool:
    if voter == status.header.replica_id:
        return True
    peer = progress[voter]
    return peer.state == pb.REPLICATE and status.last_index - peer.match <= CAUGHT_UP_LAG_MAX


def _member_row(
    member: pb.Member,
    status: pb.StatusResponse,
    progress: Mapping[int, pb.PeerProgress],
    own: Mapping[str, pb.StatusResponse],
    answers: Answers,
) -> ReplicaRow:
    leads = status.role == pb.LEADER
    is_leader = leads and member.replica_id == status.header.replica_id
    reply = own.get(member.server.server_id)
    peer = progress.get(member.replica_id)
    match = status.last_index if is_leader else peer.match if peer else reply.last_index if reply else None
    listen = member.server.addresses.listen
    return ReplicaRow(
        name=member.server.name,
        replica_id=U64(member.replica_id),
        server_id=member.server.server_id,
        address=listen,
        role="leader" if is_leader else pb.MemberRole.Name(member.role).lower(),
        state=_state(is_leader, peer, reply),
        match=None if match is None else U64(match),
        lag=U64(max(0, status.last_index - match)) if leads and not is_leader and match is not None else None,
        contact_s=peer.contact_age_ms / 1000 if peer and peer.contacted else None,
        applied_index=U64(reply.applied_index) if reply else None,
        db_used_bytes=U64(reply.db_used_bytes) if reply else None,
        db_size_max_bytes=U64(reply.db_size_max_bytes) if reply else None,
        version=reply.server.version if reply else member.server.version,
        answers=reply is not None,
        error="" if reply else _why_no_answer(listen, answers.get(listen)),
    )


def _state(is_leader: bool, peer: pb.PeerProgress | None, reply: pb.StatusResponse | None) -> str:
    if is_leader:
        return ""
    if peer:
        return pb.ProgressState.Name(peer.state).lower()
    return pb.RaftRole.Name(reply.role).lower().replace("_", "-") if reply else "unreachable"


def _why_no_answer(address: str, answer: pb.StatusResponse | RavelError | None) -> str:
    if isinstance(answer, RavelError):
        return why_silent(address, answer)
    return "another daemon answers at its address" if answer else "no address is known"


def _stranger_row(reply: pb.StatusResponse) -> ReplicaRow:
    """A daemon that is no member: blank, or removed."""
    seated = not reply.blank
    return ReplicaRow(
        name=reply.server.name,
        replica_id=U64(reply.header.replica_id),
        server_id=reply.server.server_id,
        address=reply.server.addresses.listen,
        role="blank" if reply.blank else "removed",
        state="",
        match=None,
        lag=None,
        contact_s=None,
        applied_index=U64(reply.applied_index) if seated else None,
        db_used_bytes=U64(reply.db_used_bytes) if seated else None,
        db_size_max_bytes=U64(reply.db_size_max_bytes) if seated else None,
        version=reply.server.version,
        answers=True,
        error="",
    )


# --- what deserves a sentence


def _worries(status: pb.StatusResponse, progress: Mapping[int, pb.PeerProgress], rows: Sequence[ReplicaRow]) -> tuple[str, ...]:
    """What makes a cluster degraded."""
    worries = [f"{row.name} does not answer at {row.address or ABSENT}: {row.error}" for row in rows if not row.answers]
    voters = {member.replica_id for member in status.members if member.role == pb.VOTER}
    for peer in status.progress:
        name = name_of(status.members, peer.replica_id)
        if not heard(status, peer):
            since = f"for {age_text(peer.contact_age_ms / 1000)}" if peer.contacted else "since it leads"
            worries.append(f"the leader has not heard {name} {since}")
        elif peer.replica_id not in voters:
            continue
        elif peer.state == pb.SNAPSHOT:
            if not _tells_of_snapshot(status, peer):
                worries.append(_installing(name, peer))
        elif not _caught_up(peer.replica_id, status, progress):
            worries.append(
                f"{name} is {status.last_index - peer.match} entries behind ({pb.ProgressState.Name(peer.state).lower()})"
            )
    return tuple(worries)


def _remarks(status: pb.StatusResponse, answers: Answers) -> tuple[str, ...]:
    """What goes on, and is as it should be."""
    known = {member.server.addresses.listen for member in status.members}
    remarks = [f"{a} does not answer: {e.message}" for a, e in answers.items() if isinstance(e, RavelError) and a not in known]
    voters = {member.replica_id for member in status.members if member.role == pb.VOTER}
    remarks += [
        _installing(name_of(status.members, peer.replica_id), peer)
        for peer in status.progress
        if peer.state == pb.SNAPSHOT
        and heard(status, peer)
        and peer.replica_id not in voters
        and not _tells_of_snapshot(status, peer)
    ]
    if any(member.role == pb.LEAVING for member in status.members):
        remarks.append("a change of membership is under way")
    if status.transferee_id:
        remarks.append(f"leadership is being handed to {name_of(status.members, status.transferee_id)}")
    return tuple(remarks)


def _tells_of_snapshot(status: pb.StatusResponse, peer: pb.PeerProgress) -> bool:
    """Whether an alarm says already that this peer is installing a snapshot."""
    return any(alarm.code == SNAPSHOT_NOTICE and alarm.replica_id == peer.replica_id for alarm in status.alarms)


def _versions(rows: Sequence[ReplicaRow]) -> tuple[str, ...]:
    """A rolling upgrade that is under way, or was forgotten half-way."""
    by_version: dict[str, list[str]] = {}
    for row in rows:
        by_version.setdefault(row.version, []).append(row.name)
    if len(by_version) < 2:
        return ()
    told = ", ".join(f"{version or 'unknown'} on {' '.join(names)}" for version, names in sorted(by_version.items()))
    return (f"versions differ: {told}",)


def _installing(name: str, peer: pb.PeerProgress) -> str:
    share = ""
    if peer.snapshot_size_bytes:
        share = f" ({peer.snapshot_sent_bytes / peer.snapshot_size_bytes:.0%} of {size_text(peer.snapshot_size_bytes)})"
    return f"{name} is installing snapshot {peer.snapshot_index}{share}"


def _about_strangers(strangers: Sequence[pb.StatusResponse], status: pb.StatusResponse) -> tuple[str, ...]:
    """Daemons that are no members are no fault of the cluster's."""
    return tuple(_about_stranger(reply, status.server.addresses.listen) for reply in strangers)


def _about_stranger(reply: pb.StatusResponse, via: str) -> str:
    if reply.blank:
        address = reply.server.addresses.listen
        return f"{reply.server.name} belongs to no cluster yet: `ravelctl join {address} --via {via}` takes it in"
    if reply.removed:
        return f"{reply.server.name} was removed from the cluster and stays out: its daemon can be stopped"
    if any(member.replica_id == reply.header.replica_id for member in reply.members):  # by an older membership: ids are used once
        return f"{reply.server.name} was removed from the cluster, and has not heard of it yet: its daemon can be stopped"
    return f"{reply.server.name} belongs to the cluster by its own word, but is no member of it"


def _bad(statuses: Iterable[pb.StatusResponse]) -> bool:
    """Whether an alarm means that the cluster is worse than it should be: notices and warnings do not. Of one without a
    severity, from an older daemon, the worst is believed."""
    mild = (pb.NOTICE, pb.WARNING)
    return any(alarm.severity not in mild for status in statuses for alarm in status.alarms)


def alarm_lines(alarms: Iterable[Alarm]) -> list[str]:
    """What they say and whom it is about; what several say in the same words is one line."""
    names: dict[tuple[str, str], list[str]] = {}
    for alarm in alarms:
        about = names.setdefault((alarm.code, alarm.message), [])
        if alarm.name and not alarm.message.startswith(f"{alarm.name} "):
            about.append(alarm.name)
    return [f"{code} {', '.join(about)}: {text}" if about else f"{code} {text}" for (code, text), about in names.items()]


def _alarms(statuses: Iterable[pb.StatusResponse], name_of: Mapping[int, str]) -> tuple[Alarm, ...]:
    found = (
        Alarm(a.code, a.message, U64(a.replica_id), name_of.get(a.replica_id, "")) for status in statuses for a in status.alarms
    )
    return tuple(dict.fromkeys(found))


def _nothing_yet(answers: Answers) -> Overview:
    own = {reply.server.server_id: reply for reply in replies(answers).values()}
    addresses = " ".join(reply.server.addresses.listen for reply in own.values())
    silent = (f"{address} does not answer: {e.message}" for address, e in answers.items() if isinstance(e, RavelError))
    zero = U64(0)
    return Overview(
        health=Health.BLANK,
        cluster_id="",
        cluster_name="",
        term=zero,
        leader="",
        leader_age_s=None,
        commit_index=zero,
        revision=zero,
        quorum=0,
        live=0,
        tolerates=None,
        replicas=tuple(map(_stranger_row, own.values())),
        alarms=(),
        notes=(*silent, f"there is no cluster yet: `ravelctl bootstrap {addresses}` makes one"),
    )


# --- members by name


def find_member(members: Sequence[pb.Member], word: str) -> pb.Member:
    """The member of that name or id; a name is tried first. Raises CommandError (exit 1) that lists those there are."""
    for member in members:
        if member.server.name == word:
            return member
    for member in members:
        if str(member.replica_id) == word:
            return member
    there = ", ".join(f"{member.server.name} ({member.replica_id})" for member in members)
    raise CommandError(
        f"the cluster has no member {word!r}; its members are {there}",
        next_step="name one of them, or its id",
        reason="UNKNOWN_MEMBER",
    )


def name_of(members: Sequence[pb.Member], replica_id: int) -> str:
    return next((m.server.name for m in members if m.replica_id == replica_id), f"replica {replica_id}")
