"""The commands of the directory, as they stand in the admin group's log: canonical JSON, so that `log show` can be read as it is.

A command is one frozen value; its name in the log is `kind`. How they are written and read is told in codec.py, what they are
answered in answers.py, what they do in decisions.py. Chance is never drawn inside apply: ids that may be needed come with the
command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

DEFAULT_CLUSTER: Final = "default"
"""Name of the cluster that the first server founds where nobody named another."""


class CommandFormError(ValueError):
    """These bytes are no command of the directory, or break a bound; the message says how."""


@dataclass(frozen=True, slots=True)
class RegisterServer:
    """A server says who it is. Answer: {"cluster": number}. Repeated, the same; addresses, version and name are recorded anew.

    A server that is new is put into the cluster named `new_cluster` (made, if there is none, with `fresh_id`), else into the
    one that placement chooses (where there is none at all: a new one, "default"). It stays there, whatever it asks for later:
    one that has no seat yet and names another cluster is refused, so that a request that was late cannot move it while it founds.

    The first of a cluster founds it: the cluster's id is drawn anew (`fresh_id`) whenever it gets a founder. Where that one was
    struck from the list before a leader reported, the next one to ask founds it, also one that is in the cluster already and
    waits. The first founder of all gets all slots for its cluster. Where a cluster is founded already, nobody gets what is
    owned by nobody: who owns it is for `ravelctl admin reconcile` to find out.

    A server that brings an identity (`cluster_id`, `replica_id`) stays what it is: also one that the directory meets for the
    first time, or had put elsewhere and no report has seated there. A cluster that the directory does not know is refused.

    Refused: WRONG_IDENTITY, NAME_TAKEN, ADDRESS_TAKEN, WRONG_CLUSTER_ID, SUPERSEDED, CLUSTER_IN_USE (emptying), INVALID_ARGUMENT
    (a bound of the directory; a `fresh_id` that a cluster has already).
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
    """What the leader of a cluster says of it. Answer: {}.

    Members get their seats. One that never registered is recorded without name and addresses; one that the directory has in
    another cluster is left there, until it registers with its identity itself. A server that had a seat, or is leaving, and that
    the membership no longer has, is struck from the list; one that was only assigned still waits for its turn.

    Refused: WRONG_CLUSTER_ID, SUPERSEDED, STALE_REPORT where the directory knows a later term, another leader of the term, or a
    later configuration.
    """

    kind: ClassVar[str] = "membership"
    cluster_id: str
    leader_id: str  # server id
    term: int
    config_index: int
    members: tuple[Seated, ...] = ()


@dataclass(frozen=True, slots=True)
class MarkLeaving:
    """A server is to leave. Answer: {"struck": bool}. Repeated, the same, or it is struck meanwhile.

    The only server of a cluster without slots and moves takes the cluster with it: both are struck. One that waits for a cluster
    that nobody founded is struck at once, since no report will ever come of it.

    Refused: NOT_FOUND, LAST_REPLICA: no other member of its cluster stays, and the cluster owns slots or has moves under way.
    """

    kind: ClassVar[str] = "leaving"
    server_id: str


@dataclass(frozen=True, slots=True)
class ForgetServer:
    """A server that no reported membership has is struck from the list, or a leaving one of a cluster without slots and moves,
    which may be dead as a whole. Answer: {}. Refused: NOT_FOUND, UNSAFE_CHANGE (it is a member)."""

    kind: ClassVar[str] = "forget"
    server_id: str


@dataclass(frozen=True, slots=True)
class SetCluster:
    """A cluster is made, or what is wanted of it changed. `replicas_wanted` 0: as it is, or REPLICAS_WANTED.
    Answer: {"cluster": number}. Refused: CLUSTER_IN_USE (it is to be emptied, owns slots, and no other could take them),
    INVALID_ARGUMENT (see RegisterServer)."""

    kind: ClassVar[str] = "cluster"
    name: str
    fresh_id: str
    replicas_wanted: int = 0
    emptying: bool = False


@dataclass(frozen=True, slots=True)
class RemoveCluster:
    """A cluster without servers, slots and moves is struck from the list. Answer: {}. Refused: NOT_FOUND, CLUSTER_IN_USE.

    The only cluster of all goes also where it owns all slots but nobody founded it: the next founder gets them."""

    kind: ClassVar[str] = "remove-cluster"
    name: str


@dataclass(frozen=True, slots=True)
class AdoptCluster:
    """The cluster of this name came back under another id, out of a backup or of what a disaster left, and takes its old place.
    Answer: {"cluster": number}. Repeated, the same. See adoption.py.

    Refused: NOT_FOUND, STALE_VIEW (its id is not `superseded_id` any more), INVALID_ARGUMENT (the new id is or was another's)."""

    kind: ClassVar[str] = "adopt"
    name: str
    superseded_id: str  # the id that the list has for it now
    cluster_id: str


@dataclass(frozen=True, slots=True)
class VacateAddress:
    """Another server was met at an address of this one: its addresses are not known until it registers anew. Answer: {}.
    Nothing changes where it has other ones by now. Refused: NOT_FOUND."""

    kind: ClassVar[str] = "vacate"
    server_id: str
    listen: str  # as the list has them
    peer: str


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
    """PLANNED -> COPYING. Answer: {"map_version": n}, that of now. Repeated, the same. Refused: NOT_FOUND, MOVE_REFUSED (it is
    decided, or an older move of one of its clusters has not ended)."""

    kind: ClassVar[str] = "begin"
    move_id: int


@dataclass(frozen=True, slots=True)
class DecideMove:
    """COPYING -> COMMITTED, and with it the map's next version; or COPYING -> ABORTED; or a PLANNED one is struck. The one place
    where a move is decided: the second decision is refused (MOVE_REFUSED) unless it is the same. Answer: {"map_version": n}, that
    of now, which may be later than that of the decision where it is repeated. Refused: NOT_FOUND, MOVE_REFUSED."""

    kind: ClassVar[str] = "decide"
    move_id: int
    commit: bool


@dataclass(frozen=True, slots=True)
class FinishMove:
    """The clusters know; the move is struck. Answer: {}. Repeated, the same. Refused: MOVE_REFUSED (it is not decided)."""

    kind: ClassVar[str] = "finish"
    move_id: int


@dataclass(frozen=True, slots=True)
class SetSlotMap:
    """What registry and clusters are to agree on, as `reconcile` worked it out: the map's owners, and moves that are struck.

    Answer: {"map_version": n, "move": id}. The version is above `map_version`, the newest that any cluster knows, and above the
    registry's; clusters lose slots by n - 1 and gain by n. The id is above `last_move` and every other. Refused: STALE_VIEW
    (`seen` is not movement.seen_by of the directory any more), INVALID_ARGUMENT (an owner that is not in the list)."""

    kind: ClassVar[str] = "slot-map"
    seen: str
    owners: tuple[int, ...]  # SLOT_COUNT of them; 0: nobody
    struck: tuple[int, ...]  # ids of moves, ascending
    map_version: int
    last_move: int


Command = (
    RegisterServer
    | ReportMembership
    | MarkLeaving
    | ForgetServer
    | SetCluster
    | RemoveCluster
    | AdoptCluster
    | VacateAddress
    | PlanMoves
    | BeginMove
    | DecideMove
    | FinishMove
    | SetSlotMap
)

KINDS: Final[dict[str, type[Command]]] = {
    RegisterServer.kind: RegisterServer,
    ReportMembership.kind: ReportMembership,
    MarkLeaving.kind: MarkLeaving,
    ForgetServer.kind: ForgetServer,
    SetCluster.kind: SetCluster,
    RemoveCluster.kind: RemoveCluster,
    AdoptCluster.kind: AdoptCluster,
    VacateAddress.kind: VacateAddress,
    PlanMoves.kind: PlanMoves,
    BeginMove.kind: BeginMove,
    DecideMove.kind: DecideMove,
    FinishMove.kind: FinishMove,
    SetSlotMap.kind: SetSlotMap,
}
