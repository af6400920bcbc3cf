"""The commands of the directory, as they stand in the admin group's log: canonical JSON, so that `log show` can be read as it is.

A command is one frozen value; its name in the log is `kind`. Answers are JSON too (`Outcome.value`): a refused one carries
a reason of ravelpb.errors and a sentence. Chance is never drawn inside apply: ids that may be needed come with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


class CommandFormError(ValueError):
    """These bytes are no command of the directory, or break a bound; the message says how."""


@dataclass(frozen=True, slots=True)
class RegisterServer:
    """A server says who it is. Answer: {"cluster": number}. Repeated, the same; addresses, version and name are recorded anew.

    A server without a seat is put into the cluster named `new_cluster` (made, if there is none, with `fresh_id`), else into the
    one that placement chooses (where there is none at all: a new one, "default"). The first of a cluster founds it. Where its
    founder was struck from the list before it reported, the next one founds it under `fresh_id`. A server that brings an identity
    (`cluster_id`, `replica_id`) stays what it is; a cluster that the directory does not know is refused.

    Refused: WRONG_IDENTITY, NAME_TAKEN, ADDRESS_TAKEN, WRONG_CLUSTER_ID, CLUSTER_IN_USE (emptying).
    """

    kind: ClassVar[str] = "register"
    server_id: str
    name: str
    version: str
    format: int
    listen: str
    peer: str
    fresh_id: str  # 32 hex digits
    new_cluster: str = ""
    cluster_id: str = ""
    replica_id: int = 0


@dataclass(frozen=True, slots=True)
class Seated:
    """One member of a reported membership."""

    server_id: str
    replica_id: int
    learner: bool = False


@dataclass(frozen=True, slots=True)
class ReportMembership:
    """What the leader of a cluster says of it. Refused as STALE_REPORT where the directory knows a later term, or a later
    configuration. Members get their seats; a leaving server that the membership no longer has is struck from the list."""

    kind: ClassVar[str] = "membership"
    cluster_id: str
    leader_id: str  # server id
    term: int
    config_index: int
    members: tuple[Seated, ...] = ()


@dataclass(frozen=True, slots=True)
class MarkLeaving:
    """A server is to leave. Refused: NOT_FOUND, LAST_REPLICA (of a cluster that owns slots). The last one of a cluster without
    slots takes the cluster with it: both are struck. Answer: {"struck": bool}."""

    kind: ClassVar[str] = "leaving"
    server_id: str


@dataclass(frozen=True, slots=True)
class ForgetServer:
    """A server that no reported membership has is struck from the list. Refused: NOT_FOUND, UNSAFE_CHANGE (it is a member)."""

    kind: ClassVar[str] = "forget"
    server_id: str


@dataclass(frozen=True, slots=True)
class SetCluster:
    """A cluster is made, or what is wanted of it changed. `replicas_wanted` 0: as it is, or REPLICAS_WANTED.
    Answer: {"cluster": number}."""

    kind: ClassVar[str] = "cluster"
    name: str
    fresh_id: str
    replicas_wanted: int = 0
    emptying: bool = False


@dataclass(frozen=True, slots=True)
class RemoveCluster:
    """A cluster without servers and slots is struck from the list. Refused: NOT_FOUND, CLUSTER_IN_USE."""

    kind: ClassVar[str] = "remove-cluster"
    name: str


@dataclass(frozen=True, slots=True)
class PlannedMove:
    slots: tuple[int, ...]
    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class PlanMoves:
    """Moves wait for their turn. Refused: STALE_VIEW where the map is not of `map_version`, MOVE_REFUSED where slots do not
    belong to the source, or move already, or a cluster is not founded. Move ids are log index << 16 | place: they ascend."""

    kind: ClassVar[str] = "plan"
    map_version: int
    moves: tuple[PlannedMove, ...]


@dataclass(frozen=True, slots=True)
class BeginMove:
    """PLANNED -> COPYING. Answer: {"map_version": n}. Repeated, the same. Refused: NOT_FOUND, MOVE_REFUSED."""

    kind: ClassVar[str] = "begin"
    move_id: int


@dataclass(frozen=True, slots=True)
class DecideMove:
    """COPYING -> COMMITTED, and with it the map's next version; or PLANNED or COPYING -> ABORTED. The one place where a move is
    decided: the second decision is refused (MOVE_REFUSED) unless it is the same. Answer: {"map_version": n}."""

    kind: ClassVar[str] = "decide"
    move_id: int
    commit: bool


@dataclass(frozen=True, slots=True)
class FinishMove:
    """The clusters know; the move is struck. Repeated, the same."""

    kind: ClassVar[str] = "finish"
    move_id: int


Command = (
    RegisterServer
    | ReportMembership
    | MarkLeaving
    | ForgetServer
    | SetCluster
    | RemoveCluster
    | PlanMoves
    | BeginMove
    | DecideMove
    | FinishMove
)

KINDS: Final[dict[str, type[Command]]] = {
    RegisterServer.kind: RegisterServer,
    ReportMembership.kind: ReportMembership,
    MarkLeaving.kind: MarkLeaving,
    ForgetServer.kind: ForgetServer,
    SetCluster.kind: SetCluster,
    RemoveCluster.kind: RemoveCluster,
    PlanMoves.kind: PlanMoves,
    BeginMove.kind: BeginMove,
    DecideMove.kind: DecideMove,
    FinishMove.kind: FinishMove,
}
