"""A cluster as doctor sees it, made by hand: healthy at first, then whatever a test makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ravelctl.diagnosis.judgement import Diagnosis, diagnose
from ravelctl.diagnosis.seen import Directory, DirectoryMember, Door, Happening, Reach, Seen
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1.common_pb2 import Addresses, ResponseHeader, ServerRef

CLUSTER = "3f9c21aa" + "0" * 24
GIB = 1 << 30
LAST = 120


def server(number: int) -> ServerRef:
    addresses = Addresses(
        listen=f"127.0.0.1:{7400 + 10 * number}",
        peer=f"127.0.0.1:{7401 + 10 * number}",
        listen_bind=f"127.0.0.1:{7400 + 10 * number}",
        peer_bind=f"127.0.0.1:{7401 + 10 * number}",
    )
    return ServerRef(server_id=f"{number:032x}", name=f"n{number}", version="0.1.0", addresses=addresses, format=1)


def directory(number: int, voters: tuple[int, ...] = (1, 2, 3)) -> Directory:
    return Directory(
        path=f"/data/n{number}",
        cluster_id=CLUSTER,
        cluster_name="orders",
        replica_id=number,
        server_id=f"{number:032x}",
        name=f"n{number}",
        term=7,
        commit=LAST,
        first_index=2,
        last_index=LAST,
        last_term=7,
        applied=LAST,
        config_index=40,
        voters=voters,
        members=tuple(
            DirectoryMember(v, f"{v:032x}", f"n{v}", f"127.0.0.1:{7400 + 10 * v}", "0.1.0", 1, removed=False) for v in voters
        ),
        state_bytes=1 << 20,
        disk_free_bytes=100 * GIB,
    )


@dataclass
class Scene:
    """`doors` are by the number of the replica; n1 leads."""

    doors: dict[int, Door] = field(default_factory=dict)
    earlier: dict[int, Door] = field(default_factory=dict)
    directories: list[Directory] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    cluster_id: str = ""
    certificate_ends_in_s: float | None = None

    @classmethod
    def healthy(cls, voters: int = 3, learners: int = 0) -> Scene:
        numbers = range(1, voters + learners + 1)
        members = [
            pb.Member(replica_id=n, server=server(n), role=pb.VOTER if n <= voters else pb.LEARNER, auto_promote=n > voters)
            for n in numbers
        ]
        return cls({n: Door(server(n).addresses.listen, Reach.ANSWERS, status=_status(n, members)) for n in numbers})

    @property
    def statuses(self) -> list[pb.StatusResponse]:
        return [door.status for door in self.doors.values() if door.status is not None]

    def status(self, number: int) -> pb.StatusResponse:
        found = self.doors[number].status
        assert found is not None
        return found

    def member(self, number: int) -> list[pb.Member]:
        """Its record, as each replica has it."""
        return [member for status in self.statuses for member in status.members if member.replica_id == number]

    def peer(self, number: int) -> pb.PeerProgress:
        """The leader's view of it."""
        return next(peer for peer in self.status(1).progress if peer.replica_id == number)

    def door(self, number: int, reach: Reach, said: str = "", next_step: str = "") -> None:
        """Its daemon does not answer any more, but so."""
        self.doors[number] = replace(self.doors[number], reach=reach, status=None, said=said, next_step=next_step)

    def unheard(self, number: int, for_ms: int = 9_000) -> None:
        peer = self.peer(number)
        peer.recent_active, peer.contact_age_ms = False, for_ms

    def dies(self, number: int, reach: Reach = Reach.REFUSED) -> None:
        """Nobody hears its daemon any more."""
        if self.doors[1].status is not None and number != 1:
            self.unheard(number)
        self.door(number, reach)
        if number == 1:
            self.leaderless()

    def leaderless(self, for_ms: int = 20_000) -> None:
        for status in self.statuses:
            status.role, status.leader_id = pb.PRE_CANDIDATE, 0
            del status.progress[:]
            status.candidacy.since_ms = for_ms
            status.candidacy.granted_by[:] = [status.header.replica_id]

    def seen(self) -> Seen:
        return Seen(
            doors=tuple(self.doors.values()),
            earlier=tuple(self.earlier.values()),
            directories=tuple(self.directories),
            happenings=tuple(self.happenings),
            cluster_id=self.cluster_id,
            own_certificate_ends_in_s=self.certificate_ends_in_s,
        )

    def judged(self) -> Diagnosis:
        return diagnose(self.seen())


def _status(number: int, members: list[pb.Member]) -> pb.StatusResponse:
    leads = number == 1
    progress = [
        pb.PeerProgress(
            replica_id=member.replica_id, state=pb.REPLICATE, match=LAST, next=LAST + 1, recent_active=True, contacted=True,
            contact_age_ms=40, inflight_max=256,
        )
        for member in members
        if member.replica_id != number
    ]  # fmt: skip
    return pb.StatusResponse(
        header=ResponseHeader(cluster_id=CLUSTER, replica_id=number, term=7, index=LAST),
        server=server(number),
        cluster_name="orders",
        role=pb.LEADER if leads else pb.FOLLOWER,
        leader_id=1,
        last_index=LAST,
        commit_index=LAST,
        applied_index=LAST,
        config_index=40,
        members=members,
        progress=progress if leads else [],
        leader_age_ms=100_000,
        contact_age_ms=0 if leads else 40,
        db_size_max_bytes=8 * GIB,
        uptime_ms=200_000,
        boot_id=f"{number:016x}",
        election_timeout_ms=800,
        heartbeat_ms=100,
        ready=True,
    )
