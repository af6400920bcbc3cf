"""What doctor has seen, as frozen values: daemons at their addresses, data directories, and what was told of elections.

Messages of the wire are kept as they came and never changed. Times are of the machine that looks, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from ravelctl.cluster.overview import heard, name_of
from ravelpb.v1 import cluster_pb2 as pb


class Reach(StrEnum):
    """What came of dialling an address."""

    ANSWERS = "answers"
    REFUSED = "refuses connections"
    SILENT = "does not take connections"  # packets are dropped, or the host is down
    UNKNOWN_HOST = "is not a known host"
    HANGS = "takes connections and answers nothing"
    TLS = "does not come to TLS"
    OTHER_CLUSTER = "belongs to another cluster"  # than the context names
    STOPPED = "says that its replica has stopped"
    FAILS = "answers with an error"
    NOT_OURS = "is no client address of a ravel daemon"


DEAD: Final = frozenset({Reach.REFUSED, Reach.SILENT, Reach.UNKNOWN_HOST})


@dataclass(frozen=True, slots=True)
class Door:
    """A client address, and what happened there."""

    address: str
    reach: Reach
    said: str = ""  # why there is no status, a sentence
    next_step: str = ""
    status: pb.StatusResponse | None = None
    named: bool = True  # by the operator; else by a member
    clock_off_ms: int = 0  # of the daemon's wall clock against ours, as far as the way of the answer cannot explain it
    plain: bool = True  # dialled without TLS
    certificate_ends_in_s: float | None = None  # of the one it showed; negative: it has expired


@dataclass(frozen=True, slots=True)
class DirectoryMember:
    replica_id: int
    server_id: str
    name: str
    listen: str
    version: str
    format: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Damage:
    code: str  # RV6xx
    said: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A data directory as it lies there. Zeros and empty texts where nothing could be read."""

    path: str
    damage: tuple[Damage, ...] = ()
    next_step: str = ""  # where the directory cannot be entered at all
    owner: str = ""  # the process that has it open
    owner_stopped: bool = False  # that process is stopped by a signal
    cluster_id: str = ""  # empty: blank, or not readable
    cluster_name: str = ""
    replica_id: int = 0
    server_id: str = ""
    name: str = ""
    removed: bool = False
    term: int = 0
    commit: int = 0
    first_index: int = 0
    last_index: int = 0
    last_term: int = 0
    applied: int = 0
    config_index: int = 0
    voters: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    members: tuple[DirectoryMember, ...] = ()
    state_bytes: int = 0
    disk_free_bytes: int = 0
    mode: int = 0o700
    unread: str = ""  # what was not read through, and why

    @property
    def whole(self) -> bool:
        """Whether a daemon could start on it. A bad snapshot file does not keep one from that."""
        return bool(self.server_id) and all(found.code == "RV605" for found in self.damage)

    @property
    def seated(self) -> bool:
        return bool(self.cluster_id) and not self.removed

    @property
    def position(self) -> tuple[int, int]:
        """By which Raft compares logs: term and index of the last entry."""
        return self.last_term, self.last_index


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that a replica tells."""

    wall_ms: int
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that is judged."""

    doors: tuple[Door, ...] = ()
    earlier: tuple[Door, ...] = ()  # a look a moment before, where one look cannot tell; else empty
    directories: tuple[Directory, ...] = ()
    happenings: tuple[Happening, ...] = ()  # of elections and leadership, oldest first
    cluster_id: str = ""  # the one that is meant, by the context; empty: whichever is there
    own_certificate_ends_in_s: float | None = None  # of --cert


def _cluster_of(seen: Seen) -> str:
    """The cluster that is looked at: the one that is meant, else that of most daemons and directories, the first one named."""
    if seen.cluster_id:
        return seen.cluster_id
    found = [door.status.header.cluster_id for door in seen.doors if door.status is not None and not door.status.blank]
    found += [directory.cluster_id for directory in seen.directories if directory.cluster_id]
    return max(dict.fromkeys(found), key=found.count, default="")


@dataclass(frozen=True)
class Picture:
    """What was seen, with the questions that many rules ask answered once."""

    seen: Seen
    cluster_id: str = field(default="")

    @classmethod
    def of(cls, seen: Seen) -> Picture:
        return cls(seen, _cluster_of(seen))

    @cached_property
    def seated(self) -> Mapping[str, Door]:
        """Doors behind which a replica of the cluster answers, by server id: removed ones and strangers too."""
        found: dict[str, Door] = {}
        for door in self.seen.doors:
            status = door.status
            if status is not None and not status.blank and status.header.cluster_id == self.cluster_id:
                found.setdefault(status.server.server_id, door)
        return found

    @cached_property
    def statuses(self) -> tuple[pb.StatusResponse, ...]:
        return tuple(door.status for door in self.seated.values() if door.status is not None)

    @cached_property
    def leader(self) -> pb.StatusResponse | None:
        """Who leads in the newest term that anybody leads in."""
        leaders = [status for status in self.statuses if status.role == pb.LEADER]
        return max(leaders, key=lambda status: status.header.term, default=None)

    @cached_property
    def chief(self) -> pb.StatusResponse | None:
        """Whose word on the membership counts: the leader's, else that of the best informed replica."""
        if self.leader is not None:
            return self.leader
        return max(self.statuses, key=lambda s: (not s.removed, s.config_index, s.header.term, s.last_index), default=None)

    @cached_property
    def members(self) -> tuple[pb.Member, ...]:
        return tuple(self.chief.members) if self.chief is not None else ()

    @cached_property
    def voters(self) -> tuple[pb.Member, ...]:
        return tuple(member for member in self.members if member.role == pb.VOTER)

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1

    def name(self, replica_id: int) -> str:
        return name_of(self.members, replica_id)

    def door_of(self, member: pb.Member) -> Door | None:
        """Where this very server answers, else what is at the address on record."""
        if (door := self.seated.get(member.server.server_id)) is not None:
            return door
        address = member.server.addresses.listen
        return next((door for door in self.seen.doors if door.address == address), None)

    def own(self, member: pb.Member) -> pb.StatusResponse | None:
        """What this very server says of itself, if it answers and was not removed."""
        door = self.seated.get(member.server.server_id)
        return door.status if door is not None and door.status is not None and not door.status.removed else None

    @cached_property
    def answering(self) -> tuple[pb.Member, ...]:
        """Voters that answer."""
        return tuple(member for member in self.voters if self.own(member) is not None)

    @cached_property
    def progress(self) -> Mapping[int, pb.PeerProgress]:
        """The leader's view of the others, by replica id."""
        return {peer.replica_id: peer for peer in self.leader.progress} if self.leader is not None else {}

    def heard(self, member: pb.Member) -> bool:
        """Whether the leader hears this member, or is it."""
        if self.leader is None:
            return False
        if member.replica_id == self.leader.header.replica_id:
            return True
        peer = self.progress.get(member.replica_id)
        return peer is not None and heard(self.leader, peer)

    @cached_property
    def directory_of(self) -> Mapping[str, Directory]:
        """Directories of this cluster by server id; of copies, the one with the longer log."""
        found: dict[str, Directory] = {}
        for directory in sorted(self.seen.directories, key=lambda d: d.position):
            if directory.cluster_id == self.cluster_id and directory.server_id:
                found[directory.server_id] = directory
        return found
