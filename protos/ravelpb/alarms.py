"""The alarms that replicas raise: codes that never change their meaning, how bad each is, and what to do.

Shared by who raises them, who prints them, and who explains them (docs/operations.md, `ravelctl doctor`, the dashboard).
The families: RV1xx no leader, RV2xx replication, RV3xx disk, RV4xx membership, RV5xx configuration and security, RV6xx data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Severity(IntEnum):
    """How bad it is. Numbers as in cluster.proto."""

    NOTICE = 1  # goes on as it should, and lasts
    WARNING = 2  # look when there is time
    CRITICAL = 3  # look now


@dataclass(frozen=True, slots=True)
class AlarmKind:
    code: str
    severity: Severity
    title: str  # a few words, for a narrow screen
    meaning: str  # a sentence
    cure: str  # what to do, a sentence
    lesser: str = ""  # the code of the milder alarm that this one hides
    leader_only: bool = False  # it is a leader's view of its cluster


KINDS: Final = (
    AlarmKind(
        "RV103",
        Severity.WARNING,
        "elections",
        "more than 3 elections were seen within an hour",
        "find out why leaders are lost: slow disks, overloaded hosts, or a network that drops packets; raise the election "
        "timeout where round trips are long",
    ),
    AlarmKind(
        "RV201",
        Severity.CRITICAL,
        "unreachable",
        "a follower has not answered the leader for longer than an election timeout",
        "see whether its daemon runs and whether its peer address can be reached from the leader's host",
        leader_only=True,
    ),
    AlarmKind(
        "RV202",
        Severity.WARNING,
        "lag",
        "a follower lacks entries that are 2 seconds old or older",
        "see its disk (fsync) and the network between it and the leader",
        leader_only=True,
    ),
    AlarmKind(
        "RV203",
        Severity.CRITICAL,
        "lag",
        "a follower lacks entries that are 10 seconds old or older",
        "the same, now: it does not count as a replica that could take over",
        lesser="RV202",
        leader_only=True,
    ),
    AlarmKind(
        "RV204",
        Severity.CRITICAL,
        "snapshot stalled",
        "a snapshot on its way to a follower has not moved for 10 seconds",
        "see the follower's log: its disk may be full, or the connection may be dead",
        leader_only=True,
    ),
    AlarmKind(
        "RV205",
        Severity.WARNING,
        "apply behind",
        "committed entries are applied more slowly than they come",
        "see its processor and its disk; reads wait for what is not applied yet",
    ),
    AlarmKind(
        "RV207",
        Severity.NOTICE,
        "snapshot",
        "a follower is installing a snapshot",
        "wait: it follows again afterwards",
        leader_only=True,
    ),
    AlarmKind(
        "RV301",
        Severity.WARNING,
        "store 80%",
        "the state holds 80 % of --db-size-max",
        "delete keys, or raise it on every replica",
    ),
    AlarmKind(
        "RV302",
        Severity.CRITICAL,
        "store 95%",
        "the state holds 95 % of --db-size-max",
        "the same, now: at 100 % writes are refused; it clears by itself",
        lesser="RV301",
    ),
    AlarmKind(
        "RV303",
        Severity.WARNING,
        "fsync",
        "one save in a hundred takes 10 ms or longer",
        "see what else writes to that disk; every write waits for a majority of such saves",
    ),
    AlarmKind(
        "RV304",
        Severity.CRITICAL,
        "fsync",
        "one save in a hundred takes 25 ms or longer",
        "give the data directory a faster disk, or one of its own",
        lesser="RV303",
    ),
    AlarmKind(
        "RV305",
        Severity.CRITICAL,
        "save stalled",
        "a save has not finished for longer than an election timeout",
        "the disk hangs: see the host's kernel log; a leader hands its leadership on by itself",
    ),
    AlarmKind(
        "RV401",
        Severity.WARNING,
        "even voters",
        "the number of voters is even: it bears no more failures than one voter less",
        "add a voter, or take one out",
        leader_only=True,
    ),
    AlarmKind(
        "RV410",
        Severity.CRITICAL,
        "copied directory",
        "a data directory was copied, and both the server and the copy were started",
        "stop the copy and delete its directory; a new server joins with an empty one",
    ),
    AlarmKind(
        "RV601",
        Severity.CRITICAL,
        "impossible message",
        "a peer sent what a correct cluster cannot produce, such as a second leader in one term; it was ignored",
        "save the logs of both replicas, compare their versions, and see whether a data directory was copied or restored "
        "behind the cluster's back; it clears when the replica restarts",
    ),
    AlarmKind(
        "RV602",
        Severity.CRITICAL,
        "states differ",
        "a replica holds another state than the others at the same entry of the log",
        "compare again with `ravelctl store hash`; keep a copy of its data directory and of its log, see its disk with "
        "`ravelctl store check`, then take that replica out and join it anew; it clears when they agree again",
        leader_only=True,
    ),
    AlarmKind(
        "RV613",
        Severity.CRITICAL,
        "slot index damaged",
        "the index of slots of a replica lists other keys than the replica holds; it serves its keys, and moves no slot",
        "let another replica lead (`ravelctl leader transfer`), which can move slots at once; keep a copy of the data directory, "
        "check it with `ravelctl store check`, then remove the replica and let its server join again with an empty directory; "
        "the alarm clears when the replica restarts",
    ),
    AlarmKind(
        "RV614",
        Severity.CRITICAL,
        "old directory",
        "the data directory of a replica is older than what the replica has acknowledged: it was restored from a copy, or its "
        "disk has lost writes",
        "do not restore a member's directory; run `ravelctl member replace` with the name of that member: it empties the "
        "directory and joins the server again under a new replica id",
    ),
)

KIND_OF: Final[Mapping[str, AlarmKind]] = {kind.code: kind for kind in KINDS}
