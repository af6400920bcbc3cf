"""Rules RV4xx: who is in the cluster, who should not be there, and who is at whose address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ravelctl.cli.output import count_text
from ravelctl.diagnosis.finding import Finding, finding
from ravelctl.diagnosis.seen import Door, Picture, Reach
from ravelpb.v1 import cluster_pb2 as pb


def bears_no_failure(p: Picture) -> Iterator[Finding]:
    if p.leader is not None and len(p.voters) == 1:
        yield finding("RV402", "", f"{p.voters[0].server.name} is the only voter: the cluster bears no failure")


def even_voters(p: Picture) -> Iterator[Finding]:
    count = len(p.voters)
    if p.leader is not None and count and count % 2 == 0 and not _joint(p.leader):
        sentence = f"{count} voters bear {count_text((count - 1) // 2, 'failure')}, as {count - 1} would"
        yield finding("RV401", "", sentence, [f"voters {' '.join(member.server.name for member in p.voters)}"])


def waiting_learners(p: Picture) -> Iterator[Finding]:
    for member in p.members:
        peer = p.progress.get(member.replica_id)
        if member.role != pb.LEARNER or member.auto_promote or peer is None or peer.state != pb.REPLICATE:
            continue
        name = member.server.name
        do = f"`ravelctl member promote {name}` makes it a voter; leave it if it is meant to be none"
        yield finding("RV403", name, f"{name} is a learner and is not promoted by itself", [f"it has entry {peer.match}"], do=do)


def removed_and_running(p: Picture) -> Iterator[Finding]:
    for door in p.seated.values():
        status = door.status
        if status is not None and status.removed:
            name = status.server.name
            sentence = f"{name} at {door.address} was removed from the cluster, and its daemon still runs"
            yield finding("RV404", name, sentence, [f"it was replica {status.header.replica_id}"])


def _joint(status: pb.StatusResponse) -> bool:
    return any(member.role == pb.LEAVING for member in status.members)


def joint_for_long(p: Picture) -> Iterator[Finding]:
    before = Picture.of(p.seen.__class__(doors=p.seen.earlier, cluster_id=p.cluster_id)).chief
    if p.chief is None or before is None or not (_joint(p.chief) and _joint(before)):
        return
    if before.config_index != p.chief.config_index:
        return
    incoming = " ".join(member.server.name for member in p.voters)
    leaving = " ".join(member.server.name for member in p.members if member.role == pb.LEAVING)
    silent = [member.server.name for member in p.members if p.own(member) is None]
    lines = [f"the change at entry {p.chief.config_index} stood at both looks", f"voters to be: {incoming}; leaving: {leaving}"]
    if silent:
        lines.append(f"no answer from {' '.join(silent)}")
    yield finding("RV405", "", "a change of membership does not come to its end", lines)


def others_at_address(p: Picture) -> Iterator[Finding]:
    """A member's address, and behind it a blank daemon, another member, or a daemon of another cluster."""
    for member in p.members:
        address, name = member.server.addresses.listen, member.server.name
        door = next((door for door in p.seen.doors if door.address == address), None)
        if door is None:
            continue
        if door.reach is Reach.OTHER_CLUSTER:
            yield finding("RV406", name, f"at the address of {name} a daemon of another cluster answers", [door.said])
        elif door.status is not None and door.status.server.server_id != member.server.server_id:
            yield _impostor(p, member, door, door.status)


def _impostor(p: Picture, member: pb.Member, door: Door, found: pb.StatusResponse) -> Finding:
    name = member.server.name
    lines = [
        f"{name} is server {member.server.server_id[:8]} by its record",
        f"server {found.server.server_id[:8]} ({found.server.name}) answers at {door.address}",
    ]
    if found.blank:
        return finding(
            "RV406", name, f"at the address of {name} a blank daemon answers", lines,
            why="its disk was wiped, or the daemon was started with another --data-dir",
            do=f"start it on the directory that it had; where that is lost, `ravelctl leave {name}`, then "
            f"`ravelctl join {door.address} --via` another member: it comes back as a new replica",
        )  # fmt: skip
    if found.header.cluster_id != p.cluster_id:
        lines.append(f"it belongs to cluster {found.cluster_name} ({found.header.cluster_id[:8]})")
        return finding("RV406", name, f"at the address of {name} a daemon of another cluster answers", lines)
    fellow = next((m.server.name for m in p.members if m.server.server_id == found.server.server_id), "")
    if not fellow:
        return finding("RV406", name, f"at the address of {name} another daemon of the cluster answers", lines)
    return finding(
        "RV406", name, f"at the address of {name} its fellow member {fellow} answers", lines,
        why="their data directories or their addresses were exchanged",
        do=f"start each on its own directory with the addresses on record, {name} at {door.address}",
    )  # fmt: skip


def twice(p: Picture) -> Iterator[Finding]:
    fields = (
        ("name", [(m.server.name, m) for m in p.members]),
        ("client address", [(m.server.addresses.listen, m) for m in p.members]),
        ("peer address", [(m.server.addresses.peer, m) for m in p.members]),
    )
    for what, pairs in fields:
        holders: dict[str, list[pb.Member]] = {}
        for value, member in pairs:
            holders.setdefault(value, []).append(member)
        for value, members in holders.items():
            if value and len(members) > 1:
                who = " and ".join(f"{m.server.name} ({m.replica_id})" for m in members)
                yield finding("RV407", value, f"{who} have the same {what} {value}")


def no_members(p: Picture) -> Iterator[Finding]:
    """Daemons that the operator named and that are no members: blank ones, and such as think they are."""
    if p.chief is None:
        return
    known = {member.server.server_id for member in p.members}
    addresses = {member.server.addresses.listen for member in p.members}
    for door in p.seen.doors:
        status = door.status
        if status is None or status.server.server_id in known or door.address in addresses:
            continue
        name = status.server.name
        if status.blank:
            via = p.chief.server.addresses.listen
            do = f"`ravelctl join {status.server.addresses.listen} --via {via}` takes it in"
            yield finding("RV408", name, f"{name} at {door.address} belongs to no cluster yet", do=do)
        elif status.header.cluster_id == p.cluster_id and not status.removed:
            sentence = f"{name} at {door.address} holds seat {status.header.replica_id} by its own word, and is no member"
            yield finding("RV409", name, sentence, [f"members {' '.join(m.server.name for m in p.members)}"])


def one_identity_twice(p: Picture) -> Iterator[Finding]:
    boots: dict[str, dict[str, str]] = {}
    for door in p.seen.doors:
        if door.status is not None and door.status.boot_id:
            boots.setdefault(door.status.server.server_id, {}).setdefault(door.status.boot_id, door.address)
    for server_id, addresses in boots.items():
        if len(addresses) > 1:
            where = " and ".join(addresses.values())
            yield finding("RV410", server_id[:8], f"two daemons show server id {server_id[:8]}: {where}")
    paths: dict[str, list[str]] = {}
    for directory in p.seen.directories:
        if directory.server_id:
            paths.setdefault(directory.server_id, []).append(directory.path)
    for server_id, found in paths.items():
        if len(found) > 1:
            yield finding("RV410", server_id[:8], f"{' and '.join(found)} hold the same identity, server {server_id[:8]}")


def addresses_out_of_date(p: Picture) -> Iterator[Finding]:
    for member in p.members:
        own = p.own(member)
        if own is None:
            continue
        record, now = member.server.addresses, own.server.addresses
        pairs = (("clients", record.listen, now.listen), ("replicas", record.peer, now.peer))
        lines = [f"for {whom}: on record {old}, by its own word {new}" for whom, old, new in pairs if new and old != new]
        if lines:
            name = member.server.name
            if p.leader is not None:
                flags = f"--listen {now.listen} --peer {now.peer}"
                do = f"`ravelctl member update {name} {flags}` sets them, if the leader does not learn of them within seconds"
            else:
                do = f"start it where the others look for it (--listen {record.listen} --peer-listen {record.peer}): no record "
                do += "can be changed without a leader"
            yield finding("RV411", name, f"{name} is reached elsewhere than the cluster has on record", lines, do=do)


RULES: Final = (
    bears_no_failure,
    even_voters,
    waiting_learners,
    removed_and_running,
    joint_for_long,
    others_at_address,
    twice,
    no_members,
    one_identity_twice,
    addresses_out_of_date,
)
