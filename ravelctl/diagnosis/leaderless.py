"""Rules RV1xx: why there is no leader, or why it cannot do anything, and who does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ravelctl.cli.output import age_text, count_text, rfc3339
from ravelctl.diagnosis.finding import Finding, finding
from ravelctl.diagnosis.seen import DEAD, Directory, Door, Picture, Reach
from ravelpb.v1 import cluster_pb2 as pb

HAPPENINGS: Final = 3
"""The newest so many stand as evidence beside a missing leader."""

PATIENCE_TIMEOUTS: Final = 4
"""Election timeouts that voters get to elect: the shortest one is told, and a draw or two is no fault."""


def nobody_answers(p: Picture) -> Iterator[Finding]:
    doors = p.seen.doors
    if doors and all(door.reach in DEAD for door in doors):
        told = ", ".join(door.address for door in doors)
        yield finding("RV110", "", f"nobody answers at {told}", map(told_by, doors), do=_next_without_daemons(p))


def _next_without_daemons(p: Picture) -> str:
    return "start the daemons of the directories below" if p.seen.directories else ""


def hanging_daemons(p: Picture) -> Iterator[Finding]:
    for door in p.seen.doors:
        if door.reach is not Reach.HANGS:
            continue
        name, directory = who_is_at(p, door)
        seen, do = [told_by(door)], ""
        if directory is not None and directory.owner:
            state = "is stopped by a signal" if directory.owner_stopped else "runs"
            seen.append(f"process {directory.owner} has {directory.path} open, and {state}")
            if directory.owner_stopped:
                do = f"`kill -CONT {directory.owner}` lets it go on"
        yield finding("RV108", name, f"the daemon of {name} hangs", seen, do=do)


def who_is_at(p: Picture, door: Door) -> tuple[str, Directory | None]:
    """The name of the member that should be at this address, and its directory if that was given."""
    for member in p.members:
        if member.server.addresses.listen == door.address:
            return member.server.name, p.directory_of.get(member.server.server_id)
    for directory in p.seen.directories:
        for record in directory.members:
            if record.listen == door.address and not record.removed:
                return record.name, p.directory_of.get(record.server_id)
    return door.address, None


def all_blank(p: Picture) -> Iterator[Finding]:
    blank = [door.status for door in p.seen.doors if door.status is not None and door.status.blank]
    if not blank or p.cluster_id:
        return
    addresses = " ".join(dict.fromkeys(status.server.addresses.listen for status in blank))
    do = f"`ravelctl bootstrap {addresses}` makes a cluster; if there was one, start the daemons on the directories that they had"
    names = [f"{status.server.name} at {status.server.addresses.listen} belongs to no cluster" for status in blank]
    yield finding("RV104", "", f"{count_text(len(blank), 'daemon')} answer, and none belongs to a cluster", names, do=do)


# --- a quorum


def quorum_lost(p: Picture) -> Iterator[Finding]:
    """Too few voters take part: with a leader those that it hears, without one those that answer."""
    if p.chief is None or not p.voters:
        return
    taking_part = [member for member in p.voters if (p.heard(member) if p.leader is not None else member in p.answering)]
    if len(taking_part) >= p.quorum or len(p.answering) >= p.quorum:
        return
    missing = [member for member in p.voters if member not in p.answering]
    names = ", ".join(member.server.name for member in missing)
    yield finding(
        "RV101",
        "",
        f"{len(missing)} of {count_text(len(p.voters), 'voter')} do not take part ({names}), and a quorum is {p.quorum}",
        [*(_missing(p, member) for member in missing), *_story(p)],
        do=_bring_back(p, missing),
    )


def _missing(p: Picture, member: pb.Member) -> str:
    door, directory = p.door_of(member), p.directory_of.get(member.server.server_id)
    name = member.server.name
    if door is None:
        line = f"{name} was not asked: no address is known"
    elif door.status is not None:
        removed = door.status.removed and door.status.server.server_id == member.server.server_id
        line = f"{name} says that it was removed" if removed else f"another daemon answers at {name}'s address {door.address}"
    else:
        line = f"{name} at {door.address} {door.reach.value}"
    return line if directory is None else f"{line}; {standing(directory)}"


def standing(directory: Directory) -> str:
    """A directory in a line: how far it is, whether it is whole, and who has it open."""
    if directory.damage and not directory.whole:
        return f"its directory {directory.path} is damaged ({directory.damage[0].code})"
    held = f"open in process {directory.owner}" if directory.owner else "open in no process"
    place = f"last entry {directory.last_index} of term {directory.last_term}"
    return f"its directory {directory.path} is whole: {place}, commit {directory.commit}, {held}"


def _bring_back(p: Picture, missing: Sequence[pb.Member]) -> str:
    """Who of the missing would be enough, by what their directories say."""
    directories = [p.directory_of.get(member.server.server_id) for member in missing]
    whole = [d for d in directories if d is not None and d.whole]
    if len(p.answering) + len(whole) >= p.quorum:
        paths = ", ".join(directory.path for directory in whole)
        return f"start the daemons on their directories ({paths}): with them there is a quorum, and nothing is lost"
    hung = [door.address for member in missing if (door := p.door_of(member)) is not None and door.reach is Reach.HANGS]
    if hung and len(p.answering) + len(hung) >= p.quorum:
        return f"let the hanging daemons go on, or restart them ({', '.join(hung)}): that makes a quorum"
    return ""


def voters_cannot_elect(p: Picture) -> Iterator[Finding]:
    """Enough voters answer, and there is no leader, or one that no quorum hears."""
    if len(p.answering) < p.quorum or not p.voters:
        return
    if p.leader is not None:
        if sum(map(p.heard, p.voters)) < p.quorum:
            yield _leader_unheard(p, p.leader)
        return
    own = [status for member in p.answering if (status := p.own(member)) is not None]
    since_s = min(status.contact_age_ms if status.leader_id else status.candidacy.since_ms for status in own) / 1000
    patience_s = PATIENCE_TIMEOUTS * max(status.election_timeout_ms for status in own) / 1000
    lines = [*(_stand(p, status) for status in own), *_story(p)]
    if len({(status.config_index, _voter_ids(status)) for status in own}) > 1:
        yield _memberships_differ(p, own)
    elif since_s < patience_s:
        yield finding("RV107", "", f"no leader has been known for {age_text(since_s)}: an election is under way", lines)
    elif any(status.candidacy.refused_by for status in own):
        best = max(own, key=lambda status: status.last_index)
        yield finding(
            "RV102",
            "",
            f"no leader for {age_text(since_s)}: votes are refused, though {len(own)} of {len(p.voters)} voters answer",
            lines,
            do=f"restart {best.server.name}, whose log is the longest ({best.last_index}), and see that the others reach its "
            f"peer address {best.server.addresses.peer}",
        )
    else:
        peers = ", ".join(status.server.addresses.peer for status in own)
        yield finding(
            "RV106",
            "",
            f"no leader for {age_text(since_s)}: {len(own)} of {len(p.voters)} voters answer, and do not hear each other",
            lines,
            do=f"from each of their hosts dial the others' peer addresses ({peers}); their logs say why a connection failed",
        )


def _leader_unheard(p: Picture, leader: pb.StatusResponse) -> Finding:
    lines = [f"{p.name(peer.replica_id)}: {last_contact(peer)}" for peer in leader.progress]
    heard = sum(map(p.heard, p.voters))
    sentence = f"{leader.server.name} leads, and hears {heard} of {len(p.voters)} voters, itself included; a quorum is {p.quorum}"
    return finding("RV106", "", sentence, lines)


def last_contact(peer: pb.PeerProgress) -> str:
    if not peer.contacted:
        return "the leader has not heard it since it leads"
    return f"the leader heard it {age_text(peer.contact_age_ms / 1000)} ago"


def _stand(p: Picture, status: pb.StatusResponse) -> str:
    """A leaderless voter in a line."""
    role = pb.RaftRole.Name(status.role).lower().replace("_", "-")
    words = [f"{status.server.name} is {role} in term {status.header.term}, last entry {status.last_index}"]
    if status.candidacy.granted_by:
        words.append("votes of " + " ".join(map(p.name, status.candidacy.granted_by)))
    if status.candidacy.refused_by:
        words.append("refused by " + " ".join(map(p.name, status.candidacy.refused_by)))
    return ", ".join(words)


def _voter_ids(status: pb.StatusResponse) -> tuple[int, ...]:
    return tuple(sorted(member.replica_id for member in status.members if member.role == pb.VOTER))


def _memberships_differ(p: Picture, own: Sequence[pb.StatusResponse]) -> Finding:
    lines = [
        f"{s.server.name}: voters {' '.join(map(p.name, _voter_ids(s)))}, by the change at entry {s.config_index}" for s in own
    ]
    newest = max(own, key=lambda status: status.config_index)
    return finding(
        "RV105", "", f"there is no leader, and {len(own)} voters do not agree who is in the cluster", lines,
        do=f"bring back the voters of {newest.server.name}'s configuration, the newest (entry {newest.config_index}): "
        f"{', '.join(map(p.name, _voter_ids(newest)))}",
    )  # fmt: skip


def _story(p: Picture) -> list[str]:
    """The newest of what the replicas tell of elections and leaders."""
    from datetime import UTC, datetime

    return [
        f"{rfc3339(datetime.fromtimestamp(told.wall_ms / 1000, UTC))} {told.by}: {told.text}"
        for told in p.seen.happenings[-HAPPENINGS:]
    ]


def unreachable_members(p: Picture) -> Iterator[Finding]:
    """Members that do not answer. Where the leader says more of them, or the quorum is gone, that is told instead."""
    if p.chief is None or len(p.answering) < p.quorum:
        return
    for member in p.members:
        door = p.door_of(member)
        if door is None or door.reach not in DEAD:
            continue
        name, directory = member.server.name, p.directory_of.get(member.server.server_id)
        lines = [told_by(door)]
        if peer := p.progress.get(member.replica_id):
            lines.append(last_contact(peer))
        if directory is not None:
            lines.append(standing(directory))
        why, do = _why_unreachable(p, member, door, directory)
        yield finding("RV109", name, f"{name} cannot be reached: {door.address} {door.reach.value}", lines, why=why, do=do)


def _why_unreachable(p: Picture, member: pb.Member, door: Door, directory: Directory | None) -> tuple[str, str]:
    """Cause and next step, as far as there is more to say than the code's own."""
    if directory is not None and directory.whole and not directory.owner:
        return "its daemon does not run", f"start it: `ravel_node start --data-dir {directory.path}` with the flags it had"
    if p.heard(member) and door.reach is not Reach.REFUSED:
        return "the leader hears it, so its daemon runs: this machine is cut off from it", "run ravelctl where it is reachable"
    if p.heard(member):
        return (
            "the leader has heard it within an election timeout: it died just now, or listens at another address",
            "look again in a moment with `ravelctl doctor`; if it stays so, compare the address with the daemon's --advertise",
        )
    return "", ""


def told_by(door: Door) -> str:
    """What came of an address, in a line."""
    said = f" ({door.said})" if door.said and door.reach not in (Reach.REFUSED, Reach.HANGS) else ""
    return f"{door.address} {door.reach.value}{said}"


# --- no daemon at all: the directories alone


def directories_alone(p: Picture) -> Iterator[Finding]:
    """No daemon answers or runs: are the directories enough, and what comes next?"""
    seats = [d for d in p.seen.directories if d.cluster_id == p.cluster_id and d.seated]
    if p.statuses or not seats or any(d.owner for d in seats):
        return
    whole = sorted((d for d in p.directory_of.values() if d.seated and d.whole), key=lambda d: d.position, reverse=True)
    best = max(whole, key=lambda d: (d.config_index, d.position), default=None)
    if best is None:
        yield finding("RV112", "", "none of the directories is whole", do=_recover(p))
        return
    names = {record.replica_id: record.name for record in best.members}
    lines = [f"{d.name or names.get(d.replica_id, d.path)}: {standing(d)}" for d in whole]
    halves = [half for half in (best.voters, best.outgoing) if half]
    ids = {d.replica_id for d in whole}
    lines.append(f"voters by {best.path}: {' '.join(names.get(v, str(v)) for v in best.voters)}")
    newest = whole[0]
    at_hand = f"{len(ids & set(best.voters))} of {len(best.voters)} voters' directories are at hand and whole"
    if all(len(ids & set(half)) >= len(half) // 2 + 1 for half in halves):
        paths = ", ".join(d.path for d in whole)
        do = f"start the daemons, each on its directory: {paths}; the newest is {newest.name or newest.path}"
        yield finding("RV111", "", f"no daemon runs; {at_hand}, which is a quorum", lines, do=do)
    else:
        need = len(best.voters) // 2 + 1
        yield finding("RV112", "", f"no daemon runs; {at_hand}, and a quorum is {need}", lines, do=_recover(p))


def _recover(p: Picture) -> str:
    paths = [directory.path for directory in p.seen.directories if directory.cluster_id == p.cluster_id]
    given = " ".join(path if "/" in path else f"./{path}" for path in paths)  # `recover plan` tells paths from addresses by that
    return f"give the directories of the others too, if there are any; else `ravelctl recover plan {given}` ranks these"


RULES: Final = (
    nobody_answers,
    hanging_daemons,
    all_blank,
    quorum_lost,
    voters_cannot_elect,
    unreachable_members,
    directories_alone,
)
