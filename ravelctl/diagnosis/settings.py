"""Rules RV5xx: versions, TLS, ports, timing, quotas, clocks, and endpoints that lead nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final

from ravelctl.cli.output import age_text, size_text
from ravelctl.diagnosis.finding import Finding, finding
from ravelctl.diagnosis.leaderless import told_by, who_is_at
from ravelctl.diagnosis.seen import DEAD, Door, Picture, Reach
from ravelpb.v1 import cluster_pb2 as pb

CERTIFICATE_WARN_S: Final = 30 * 24 * 3600.0
CLOCK_OFF_MS: Final = 1_000
CONNECTIONS_WARN: Final = 0.8
"""Of those that the client port takes."""

DIRECTORY_OPEN_BITS: Final = 0o077


def versions(p: Picture) -> Iterator[Finding]:
    found = _by_value(p, lambda s: s.server.version)
    for member in p.members:
        if p.own(member) is None and member.server.version:
            found.setdefault(member.server.version, []).append(member.server.name)
    if len(found) > 1:
        told = ", ".join(f"{version or 'unknown'} on {' '.join(names)}" for version, names in sorted(found.items()))
        yield finding("RV501", "", f"versions differ: {told}")
    formats: dict[int, list[str]] = {}
    for member in p.members:
        formats.setdefault(member.server.format, []).append(member.server.name)
    if len(formats) > 1:
        told = ", ".join(f"{form} of {' '.join(names)}" for form, names in sorted(formats.items()))
        yield finding("RV510", "", f"commands of format {max(formats)} are not proposed yet: the members know {told}")


def _by_value(p: Picture, value: Callable[[pb.StatusResponse], object]) -> dict[str, list[str]]:
    """Names of the members that answer, by something that each of them says."""
    found: dict[str, list[str]] = {}
    for member in p.members:
        own = p.own(member)
        if own is not None:
            found.setdefault(str(value(own)), []).append(member.server.name)
    return found


def tls(p: Picture) -> Iterator[Finding]:
    for door in p.seen.doors:
        if door.reach is Reach.TLS:
            name, _ = who_is_at(p, door)
            yield finding("RV502", name, door.said, [f"{door.address} takes connections"], do=door.next_step)


def no_client_addresses(p: Picture) -> Iterator[Finding]:
    for door in p.seen.doors:
        if door.reach is Reach.NOT_OURS:
            peer = next((m.server.name for m in p.members if m.server.addresses.peer == door.address), "")
            lines = [door.said, *([f"it is the peer address of {peer}"] if peer else [])]
            yield finding("RV513", door.address, f"{door.address} {door.reach.value}", lines)


def certificates(p: Picture) -> Iterator[Finding]:
    ends = [(door.address, f"the certificate of {door.address}", door.certificate_ends_in_s) for door in p.seen.doors]
    ends.append(("--cert", "the certificate of --cert", p.seen.own_certificate_ends_in_s))
    for subject, what, left_s in ends:
        if left_s is not None and left_s < CERTIFICATE_WARN_S:
            when = f"expires in {age_text(left_s)}" if left_s > 0 else f"expired {age_text(-left_s)} ago"
            yield finding("RV503", subject, f"{what} {when}")


def open_ports(p: Picture) -> Iterator[Finding]:
    for door in p.seated.values():
        if door.status is None or not door.plain:
            continue
        bound = door.status.server.addresses.listen_bind
        if bound and not is_loopback(bound):
            name = door.status.server.name
            sentence = f"clients can reach {name} from other machines without TLS"
            yield finding("RV504", name, sentence, [f"it has bound {bound}", f"{door.address} answered in plain text"])


def peer_ports(p: Picture) -> Iterator[Finding]:
    """Between replicas all speak TLS or none; without it anybody who reaches the port can send Raft messages."""
    told = [status for status in p.statuses if status.HasField("peer_tls")]
    plain = [status for status in told if not status.peer_tls]
    if len(plain) not in (0, len(told)):
        without = " ".join(status.server.name for status in plain)
        sure = " ".join(status.server.name for status in told if status.peer_tls)
        yield finding(
            "RV514", "", "some members speak TLS between replicas and some do not", [f"with: {sure}", f"without: {without}"]
        )
        return
    for status in plain:
        bound = status.server.addresses.peer_bind
        if bound and not is_loopback(bound):
            name = status.server.name
            sentence = f"other machines can send Raft messages to {name}: its peer port is without TLS"
            yield finding("RV514", name, sentence, [f"it has bound {bound}"])


def connections(p: Picture) -> Iterator[Finding]:
    for status in p.statuses:
        count, most = status.client_connections, status.client_connections_max
        if most and count >= CONNECTIONS_WARN * most:
            name = status.server.name
            yield finding("RV515", name, f"{name} has {count} client connections and takes {most}")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it. Names other than localhost count as reachable."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def timing(p: Picture) -> Iterator[Finding]:
    found = _by_value(p, lambda s: f"election {s.election_timeout_ms}ms, heartbeat {s.heartbeat_ms}ms")
    if len(found) > 1:
        lines = [f"{told}: {' '.join(names)}" for told, names in sorted(found.items())]
        yield finding("RV505", "", f"the members have {len(found)} different timings", lines)


def quotas(p: Picture) -> Iterator[Finding]:
    found = _by_value(p, lambda s: size_text(s.db_size_max_bytes))
    if len(found) > 1:
        lines = [f"--db-size-max {told}: {' '.join(names)}" for told, names in sorted(found.items())]
        yield finding("RV506", "", f"the members have {len(found)} different quotas", lines)


def clocks(p: Picture) -> Iterator[Finding]:
    """Against the majority: if most differ alike, it is the clock of this machine."""
    off = {
        door.status.server.name: door.clock_off_ms
        for door in p.seated.values()
        if door.status is not None and door.status.wall_ms
    }
    wrong = {name: ms for name, ms in off.items() if abs(ms) >= CLOCK_OFF_MS}
    if len(wrong) > 1 and len(wrong) == len(off) and max(wrong.values()) - min(wrong.values()) < CLOCK_OFF_MS:
        ms = min(wrong.values(), key=abs)
        side = "behind" if ms > 0 else "ahead of"
        yield finding("RV507", "this machine", f"the clock of this machine is {_off(ms)} {side} those of the daemons")
        return
    for name, ms in wrong.items():
        side = "ahead of" if ms > 0 else "behind"
        yield finding("RV507", name, f"the clock of {name} is {_off(ms)} {side} that of this machine")


def _off(ms: int) -> str:
    return f"at least {age_text(abs(ms) / 1000)}"


def open_directories(p: Picture) -> Iterator[Finding]:
    for directory in p.seen.directories:
        if directory.server_id and directory.mode & DIRECTORY_OPEN_BITS:
            sentence = f"{directory.path} has mode {directory.mode:04o}: others than its owner can enter it"
            yield finding("RV508", directory.path, sentence, do=f"`chmod 700 {directory.path}`")


def endpoints(p: Picture) -> Iterator[Finding]:
    """Endpoints of other clusters, and such as lead nowhere while the cluster is there."""
    addresses = {member.server.addresses.listen for member in p.members}
    for door in p.seen.doors:
        if door.address in addresses or not door.named:
            continue
        status = door.status
        if status is not None and not status.blank and status.header.cluster_id != p.cluster_id:
            other = f"{status.cluster_name} ({status.header.cluster_id[:8]})"
            sentence = f"{door.address} is of cluster {other}, not of {p.cluster_id[:8]}, which is looked at"
            yield finding("RV511", door.address, sentence)
        elif door.reach is Reach.OTHER_CLUSTER:
            yield finding("RV511", door.address, door.said)
        elif door.reach in DEAD and p.chief is not None and not _is_a_dead_members(p, door):
            sentence = f"{door.address} is no member's address, and {door.reach.value}"
            yield finding("RV512", door.address, sentence, [told_by(door), f"members are at {' '.join(sorted(addresses))}"])


def _is_a_dead_members(p: Picture, door: Door) -> bool:
    """Whether it may be another name for the address of a member that does not answer either: that one is told."""
    silent = (member.server.addresses.listen for member in p.members if p.own(member) is None)
    return door.address.rpartition(":")[2] in {address.rpartition(":")[2] for address in silent}


RULES: Final = (
    versions, tls, no_client_addresses, certificates, open_ports, peer_ports, connections, timing, quotas, clocks,
    open_directories, endpoints,
)  # fmt: skip
