"""The codes that doctor prints: those of the replicas' own alarms (ravelpb.alarms), and those that take a look from outside.

A code never changes its meaning. docs/doctor.md is made from this table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ravelctl.cli.exit_codes import ExitCode
from ravelpb.alarms import KINDS, Severity

FAMILIES: Final[Mapping[str, str]] = {
    "RV1": "no leader",
    "RV2": "replication",
    "RV3": "disk",
    "RV4": "membership",
    "RV5": "configuration and security",
    "RV6": "data",
}


@dataclass(frozen=True, slots=True)
class Code:
    """One thing that can be wrong. All texts are sentences without a full stop; the finding itself adds the values."""

    code: str
    severity: Severity
    title: str  # a few words
    meaning: str
    cause: str
    evidence: str  # what is looked at
    cure: str
    exit: ExitCode  # of a run that finds it and nothing worse

    @property
    def family(self) -> str:
        return FAMILIES[self.code[:3]]


_DAMAGE: Final = frozenset({"RV602", "RV603", "RV604", "RV605", "RV609", "RV610", "RV613"})
_UNREACHABLE: Final = frozenset({"RV110"})
_DEGRADED: Final = frozenset({"RV103", "RV108", "RV109"})
"""Of the family RV1xx: with these there may be a leader all the same."""


def _exit_of(code: str, severity: Severity) -> ExitCode:
    if severity is Severity.NOTICE:
        return ExitCode.DONE
    if code in _DAMAGE:
        return ExitCode.DAMAGED
    if code in _UNREACHABLE:
        return ExitCode.UNREACHABLE
    if code.startswith("RV1") and code not in _DEGRADED:
        return ExitCode.NO_LEADER
    return ExitCode.DEGRADED


def _code(code: str, severity: Severity, title: str, *, meaning: str, cause: str, evidence: str, cure: str) -> Code:
    return Code(code, severity, title, meaning, cause, evidence, cure, _exit_of(code, severity))


_ALARM_CAUSES: Final[Mapping[str, str]] = {
    "RV103": "leaders are lost again and again: their saves stall, their hosts are overloaded, or packets are lost",
    "RV201": "its daemon is down or hangs, or the network between it and the leader is cut",
    "RV202": "its disk or its processor is slower than the writes that come, or the network to it is",
    "RV203": "it was away for a while, or it is slower than the writes that come and loses ground",
    "RV204": "its disk is full, or the connection that carries the snapshot is dead without knowing it",
    "RV205": "applying waits for the processor or for the flush of what is applied already",
    "RV207": "it was away for longer than the log reaches back, or it is new",
    "RV301": "the keys, their values and what sessions remember grow towards the quota",
    "RV302": "the keys, their values and what sessions remember have nearly reached the quota",
    "RV303": "the disk is slow, or something else writes to it",
    "RV304": "the disk is much too slow, or something else keeps it busy",
    "RV305": "the disk, its controller or the file system hangs",
    "RV401": "a voter was added or removed, and its counterpart was not",
    "RV410": "a data directory, or the disk of a whole machine, was copied while its server went on",
    "RV601": "a directory was copied or restored behind the cluster's back, or two versions do not agree",
    "RV602": "a byte has changed on a disk or in memory, or a version applies an entry otherwise than the others",
    "RV614": "a backup of the directory or a snapshot of its disk was put back, or a disk did not keep what it had synced",
    "RV613": "a byte has changed on the replica's disk or in its memory",
}
_ALARM_EVIDENCE: Final = "the alarm that a replica raises itself, with its values, in its status"

_OWN: Final = (
    # --- RV1xx: no leader
    _code(
        "RV101", Severity.CRITICAL, "quorum lost",
        meaning="fewer voters take part than a quorum needs: nothing can be written, and no leader can be elected or stay",
        cause="the daemons of the other voters are down, hang, or cannot be reached",
        evidence="who is a voter by the newest configuration, which of them answer, and whom the leader hears",
        cure="start the missing daemons on the directories that they had; where their disks are lost for good, "
        "see `ravelctl recover plan` with the directories that are left",
    ),
    _code(
        "RV102", Severity.CRITICAL, "votes refused",
        meaning="enough voters answer, and those that stand for leader are refused the votes they need",
        cause="who stands has an older log than those that refuse, and the one with the newest log cannot stand, or is not heard",
        evidence="roles, terms, ends of the logs, and who has granted and refused votes",
        cure="restart the daemon of the voter with the longest log, and see that the others reach its peer address",
    ),
    _code(
        "RV104", Severity.CRITICAL, "no cluster yet",
        meaning="the daemons answer, and none of them belongs to a cluster",
        cause="they are new, or were started on other directories than before",
        evidence="what each daemon says of its identity",
        cure="make a cluster with `ravelctl bootstrap`; if there was one, start the daemons on the directories that they had",
    ),
    _code(
        "RV105", Severity.CRITICAL, "memberships differ",
        meaning="there is no leader, and the members that answer do not agree who the voters are",
        cause="the cluster lost its leader in the middle of a change of membership, or a directory was copied or restored",
        evidence="voters and the index of the newest membership change, by each member's own word",
        cure="bring back the members with the newer configuration, which counts; `ravelctl log diff` shows where logs part",
    ),
    _code(
        "RV106", Severity.CRITICAL, "voters do not hear each other",
        meaning="enough voters answer ravelctl, and yet they do not hear each other",
        cause="the peer addresses are wrong, a firewall closes the peer ports, or peer TLS does not come about",
        evidence="clients' addresses answer, votes neither granted nor refused, or a leader that hears no quorum",
        cure="from each host dial the others' peer addresses (`ravelctl member list -o wide` shows them); the daemons' logs say "
        "why a connection failed",
    ),
    _code(
        "RV107", Severity.CRITICAL, "election under way",
        meaning="there is no leader now, and the voters have had no time yet to elect one",
        cause="the leader was lost, or handed its leadership on, a moment ago",
        evidence="for how long no leader has been known, against the election timeout",
        cure="look again in a moment with `ravelctl doctor`",
    ),
    _code(
        "RV108", Severity.CRITICAL, "daemon hangs",
        meaning="a daemon takes connections and answers nothing",
        cause="its process is stopped (SIGSTOP, a debugger, a frozen container), or waits for a disk that hangs",
        evidence="the system takes the connection, and no answer comes in time",
        cure="see the state of its process (`ps -o pid,stat,wchan`) and the host's kernel log; continue or restart it",
    ),
    _code(
        "RV109", Severity.CRITICAL, "member unreachable",
        meaning="the daemon of a member cannot be reached",
        cause="it is down, its host is, or its address is not reachable from here",
        evidence="what happens to a connection to its address, and whether the leader hears it",
        cure="start its daemon; if the leader hears it, ravelctl alone is cut off from it",
    ),
    _code(
        "RV110", Severity.CRITICAL, "nobody answers",
        meaning="none of the daemons that were asked answers",
        cause="the daemons are down, or the addresses are wrong, or the network is cut",
        evidence="what happens to a connection to each address",
        cure="check the addresses; on the daemons' hosts, look at the directories with `ravelctl doctor --data-dir`",
    ),
    _code(
        "RV111", Severity.CRITICAL, "all daemons stopped",
        meaning="no daemon runs, and the directories at hand are enough for a quorum",
        cause="the daemons were stopped, or their hosts restarted and nothing started them",
        evidence="identity, log and membership in each directory, and whether a process has it open",
        cure="start the daemons on these directories: nothing is lost",
    ),
    _code(
        "RV112", Severity.CRITICAL, "too few directories",
        meaning="no daemon runs, and the whole directories at hand are too few for a quorum",
        cause="disks were lost or damaged, or not all directories were given",
        evidence="identity, log and membership in each directory, and whether it is whole",
        cure="give the other directories too if there are any; else `ravelctl recover plan` ranks what is left",
    ),
    # --- RV2xx: replication
    _code(
        "RV206", Severity.CRITICAL, "not heard though it runs",
        meaning="a member answers ravelctl, and the leader and it do not hear each other",
        cause="its peer address is wrong or blocked, in one direction at least, or peer TLS does not come about",
        evidence="its own status, the leader's last contact with it, and its last contact with the leader",
        cure="dial its peer address from the leader's host and the other way round; `ravelctl member update` changes a wrong one",
    ),
    _code(
        "RV208", Severity.WARNING, "sending waits",
        meaning="the leader sends nothing more to a follower that it hears: too much is unanswered",
        cause="the follower saves more slowly than the leader sends",
        evidence="messages in flight against their bound, at two looks in a row",
        cure="see its disk: `ravelctl top`, or fsync in `ravelctl status -o json` of that replica",
    ),
    _code(
        "RV209", Severity.WARNING, "writes are slow",
        meaning="one write in a hundred takes a quarter of a second or longer until it is applied",
        cause="a write waits for the saves of a quorum, the leader's own and those of the fastest followers, then for applying",
        evidence="the leader's latencies of ten seconds: commit, its own saves, applying, each follower's acknowledgement",
        cure="see to the slowest of what was seen: the disk of that replica, or the network to it",
    ),
    # --- RV3xx: disk
    _code(
        "RV306", Severity.WARNING, "disk nearly full",
        meaning="the file system of a data directory has no room for a copy of the state, which a snapshot is",
        cause="the disk is shared or too small",
        evidence="free bytes of the file system, and bytes in use of the state",
        cure="make room, or move the stopped daemon's directory to a larger disk; `ravelctl store stats` tells what takes it",
    ),
    # --- RV4xx: membership
    _code(
        "RV402", Severity.NOTICE, "bears no failure",
        meaning="the cluster has one voter: when that is lost, so is the cluster",
        cause="it was founded so, or the others were removed",
        evidence="the voters of the configuration",
        cure="take in two more daemons with `ravelctl join`",
    ),
    _code(
        "RV403", Severity.NOTICE, "learner waits",
        meaning="a learner has caught up and is not promoted by itself",
        cause="it joined with --no-promote, or was demoted",
        evidence="its member record and how far it is",
        cure="promote it with `ravelctl member promote`, or leave it as it is meant to be",
    ),
    _code(
        "RV404", Severity.NOTICE, "removed replica runs",
        meaning="a replica that was removed for good still runs",
        cause="nobody stopped its daemon",
        evidence="what it says of itself",
        cure="stop its daemon; to use the machine again, give it an empty data directory and `ravelctl join`",
    ),
    _code(
        "RV405", Severity.WARNING, "joint configuration",
        meaning="a change of membership does not come to its end: both halves of a joint configuration must agree to every write",
        cause="the voters of one half do not answer",
        evidence="the same joint configuration at two looks in a row",
        cure="bring the voters back that do not answer: the leader then ends the change by itself",
    ),
    _code(
        "RV406", Severity.CRITICAL, "another daemon at a member's address",
        meaning="at the address of a member another daemon answers",
        cause="its disk was wiped, another directory was given, two daemons exchanged addresses, or the record is wrong",
        evidence="the identity that the daemon shows, against the member's record",
        cure="start the member's daemon on the directory that it had; if that is lost, `ravelctl leave` it and join anew",
    ),
    _code(
        "RV407", Severity.WARNING, "names or addresses twice",
        meaning="two members have the same name, or the same address",
        cause="a daemon was started with another's --name, --advertise or --peer-advertise",
        evidence="the member records",
        cure="restart one of them with its own, or set it with `ravelctl member update`",
    ),
    _code(
        "RV408", Severity.NOTICE, "blank daemon",
        meaning="a daemon answers that belongs to no cluster yet",
        cause="it is new",
        evidence="what it says of itself",
        cure="take it in with `ravelctl join`",
    ),
    _code(
        "RV409", Severity.WARNING, "stranger",
        meaning="a daemon holds a seat in the cluster by its own word, and is no member of it",
        cause="it was removed while it was away, or its directory was copied",
        evidence="its identity, against the member records",
        cure="stop it; to use the machine again, give it an empty data directory and `ravelctl join`",
    ),
    _code(
        "RV411", Severity.WARNING, "address out of date",
        meaning="a member says that it is reached elsewhere than the cluster has on record",
        cause="it was restarted with other addresses, and could not tell the leader yet",
        evidence="what it advertises, against its member record",
        cure="see that it reaches the leader, or set it with `ravelctl member update`",
    ),
    # --- RV5xx: configuration and security
    _code(
        "RV501", Severity.WARNING, "mixed versions",
        meaning="the members do not run the same version",
        cause="an upgrade is under way, or was forgotten half-way",
        evidence="the version that each daemon says",
        cure="restart the older ones on the new version, one by one, the leader last",
    ),
    _code(
        "RV502", Severity.CRITICAL, "TLS does not come about",
        meaning="a daemon is there, and TLS between it and ravelctl does not come about",
        cause="one side speaks TLS and the other does not, or a certificate is not accepted",
        evidence="what a handshake with that address ends in",
        cure="give the right --cacert, --cert and --key; the sentence says what is wrong",
    ),
    _code(
        "RV503", Severity.WARNING, "certificate expires",
        meaning="a certificate expires within 30 days, or has expired",
        cause="nobody has renewed it",
        evidence="the certificate that the address shows, or the file of --cert",
        cure="replace the files, then restart the daemons one by one: they are read at the start",
    ),
    _code(
        "RV504", Severity.WARNING, "open without TLS",
        meaning="a port without TLS can be reached from other machines",
        cause="the daemon was started with --insecure",
        evidence="what the daemon has bound, and that it answers in plain text",
        cure="give it --tls-cert and --tls-key (docs/operations.md), or bind it to loopback",
    ),
    _code(
        "RV505", Severity.WARNING, "timing differs",
        meaning="members have different election timeouts or heartbeats: those with shorter timeouts stand for election first, "
        "and the leader's lease lasts only as long as the shorter timeouts allow",
        cause="the daemons were started with different settings",
        evidence="the timing that each daemon reports",
        cure="set --election-ticks, --heartbeat-ticks and --tick alike on all members and restart them one by one; reads stay "
        "correct meanwhile, because each member reports its own timeout to the leader; "
        "`ravel_node start --check-config` prints the settings",
    ),
    _code(
        "RV506", Severity.WARNING, "quotas differ",
        meaning="members have different --db-size-max: who leads decides when writes are refused",
        cause="the daemons were started with different settings",
        evidence="the quota that each daemon says",
        cure="give all of them the same, and restart them one by one",
    ),
    _code(
        "RV507", Severity.WARNING, "clocks differ",
        meaning="the wall clocks of two hosts differ by more than a second: events and logs of theirs cannot be put in order",
        cause="a host does not synchronise its clock. The cluster itself does not rely on it",
        evidence="each daemon's clock against that of this machine, less the way of the answer",
        cure="see the time service of that host (`timedatectl`)",
    ),
    _code(
        "RV508", Severity.WARNING, "directory open to others",
        meaning="others than its owner can enter a data directory",
        cause="its mode was changed: a daemon makes it 0700",
        evidence="its mode",
        cure="`chmod 700` it",
    ),
    _code(
        "RV510", Severity.NOTICE, "newer commands held back",
        meaning="not every member can apply the newest kinds of command, so that none is proposed",
        cause="an upgrade is under way",
        evidence="the format in each member's record",
        cure="finish the upgrade",
    ),
    _code(
        "RV511", Severity.WARNING, "endpoints of several clusters",
        meaning="the endpoints belong to different clusters; doctor looks at one of them",
        cause="an address in --endpoints, the variable or the context is wrong",
        evidence="the cluster that each daemon says",
        cure="name the daemons of one cluster with --endpoints",
    ),
    _code(
        "RV512", Severity.WARNING, "dead endpoint",
        meaning="an endpoint is no member's address, and nobody answers there",
        cause="the member that was there has left or moved, or the address is wrong",
        evidence="what happens to a connection to it, and the members' addresses",
        cure="take it out of --endpoints, the variable or the context",
    ),
    _code(
        "RV513", Severity.WARNING, "not a client address",
        meaning="something else than a daemon's client port answers at an address",
        cause="it is a peer address (the port after the client's, by default), another program's, or a proxy's",
        evidence="the answer to a call, or to the opening of HTTP/2",
        cure="name the client address, which `ravelctl member list` shows",
    ),
    _code(
        "RV514", Severity.WARNING, "peer port without TLS",
        meaning="replicas talk without TLS where other machines can reach them, or some with it and some without",
        cause="the daemon was started with --insecure, or TLS was turned on for some members only",
        evidence="what each daemon says of its peer port, and what it has bound",
        cure="give every member --peer-tls-cert, --peer-tls-key and --peer-tls-ca (docs/operations.md), or bind it to loopback",
    ),
    _code(
        "RV515", Severity.WARNING, "connections nearly used up",
        meaning="most of the connections that the client port takes are open; beyond the last one newcomers are cut off",
        cause="clients that connect and never close, a low limit of open files, or a low --connections-max",
        evidence="the connections that the daemon counts on its client port, and how many it takes",
        cure="see who connects (`ss -tn`), let the process open more files (ulimit -n, LimitNOFILE=), or raise --connections-max",
    ),
    # --- RV6xx: data
    _code(
        "RV603", Severity.CRITICAL, "damaged log",
        meaning="a record of the log cannot be read as it was written",
        cause="a disk or memory fault, a file that was cut or edited, or a copy made while the daemon wrote",
        evidence="check sums and the continuity of the log in the directory",
        cure="keep a copy; while a quorum lives, `ravelctl leave` this replica and join it anew with an empty directory",
    ),
    _code(
        "RV604", Severity.CRITICAL, "damaged state",
        meaning="the applied state cannot be read as it was written, or is missing",
        cause="a disk or memory fault, or files that were cut, edited or deleted",
        evidence="check sums and positions in the directory",
        cure="keep a copy; while a quorum lives, `ravelctl leave` this replica and join it anew with an empty directory",
    ),
    _code(
        "RV605", Severity.WARNING, "damaged snapshot",
        meaning="a snapshot file is not what its header says",
        cause="a disk fault, or a file that was cut or edited",
        evidence="the file's size and check sum against its header",
        cure="delete the file once a newer one is there: `ravelctl snapshot save` has one built; log and state are not affected",
    ),
    _code(
        "RV606", Severity.CRITICAL, "no data directory",
        meaning="the directory is not one of ravel's",
        cause="a typing error, an empty directory, or files that were deleted",
        evidence="its FORMAT file and what else is in it",
        cure="give --data-dir the directory that the daemon was started with",
    ),
    _code(
        "RV607", Severity.CRITICAL, "later format",
        meaning="the directory was written by a later version",
        cause="a daemon was upgraded, and this ravelctl, or the daemon that should start on it, was not",
        evidence="its FORMAT file",
        cure="use the version that wrote it, or a later one",
    ),
    _code(
        "RV608", Severity.WARNING, "directory cannot be read",
        meaning="the directory is not there, or may not be read",
        cause="a wrong path, or another user's files",
        evidence="what the system says",
        cure="run the command as the daemon's user, or as root, on the daemon's host",
    ),
    _code(
        "RV609", Severity.CRITICAL, "parts do not fit",
        meaning="log and state of a directory do not belong together: entries that were applied or committed are missing",
        cause="one of them was restored, deleted or cut by itself",
        evidence="the ends of the log, the commit and the applied index",
        cure="keep a copy; while a quorum lives, `ravelctl leave` this replica and join it anew with an empty directory",
    ),
    _code(
        "RV610", Severity.CRITICAL, "replica stopped itself",
        meaning="a daemon answers that its replica has stopped",
        cause="a save failed, data is damaged, or the log holds a command that this version does not know",
        evidence="what it answers",
        cure="read the last lines of its log, and look at its directory with `ravelctl doctor --data-dir`",
    ),
    _code(
        "RV611", Severity.NOTICE, "directory without a seat",
        meaning="the directory belongs to no cluster, or to a replica that was removed",
        cause="its daemon never joined, or was taken out",
        evidence="the identity in it",
        cure="it is of no use to recover the cluster; a removed one can be deleted",
    ),
    _code(
        "RV612", Severity.WARNING, "directories of several clusters",
        meaning="the directories belong to different clusters; doctor looks at one of them",
        cause="a wrong path",
        evidence="the identity in each",
        cure="give the directories of one cluster",
    ),
)  # fmt: skip

_ALARMS: Final = tuple(
    _code(
        kind.code, kind.severity, kind.title,
        meaning=kind.meaning,
        cause=_ALARM_CAUSES.get(kind.code, "the replica's own look at itself says it"),
        evidence=_ALARM_EVIDENCE,
        cure=kind.cure,
    )
    for kind in KINDS
)  # fmt: skip

CODES: Final[Mapping[str, Code]] = {code.code: code for code in sorted((*_OWN, *_ALARMS), key=lambda code: code.code)}
OWN_CODES: Final = frozenset(code.code for code in _OWN)
HIDES: Final[Mapping[str, str]] = {kind.code: kind.lesser for kind in KINDS if kind.lesser}
"""Which milder code a worse one makes superfluous, for the same subject."""


def unknown(code: str, severity: Severity) -> Code:
    """An alarm of a newer daemon, which this ravelctl knows nothing of."""
    return _code(
        code, severity, "unknown to this ravelctl",
        meaning="a replica raises an alarm that this ravelctl does not know",
        cause="the daemon is of a newer version than ravelctl",
        evidence=_ALARM_EVIDENCE,
        cure="read docs/doctor.md of the daemon's version, and upgrade ravelctl",
    )  # fmt: skip
