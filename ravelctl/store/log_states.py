"""The states of two live replicas, as a comparison that their leader made tells: the same, or parted between which entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravelctl.cli.errors import CommandError
from ravelctl.cli.output import U64
from ravelctl.client.errors import RavelError
from ravelctl.store.state_hashes import ask_leader

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.store.log_source import LiveLog
    from ravelpb.v1.inspect_pb2 import ReplicaStateHash


@dataclass(frozen=True, slots=True)
class StatePair:
    """What two replicas hold at entry `index`, 0 where it was not compared and `why` says why."""

    index: int
    term: int
    same: bool
    agreed_index: int = 0  # where not the same: the last entry at which they are known to have been; 0: none is known
    differed_index: int = 0  # and the first one after it at which they were not
    why: str = ""

    def told(self, names: tuple[str, str]) -> str:
        if not self.index:
            return f"their states were not compared: {self.why}"
        if self.same:
            return f"their states at entry {self.index} are the same"
        if self.agreed_index:
            since = f"they were the same at entry {self.agreed_index} and no more at entry {self.differed_index}"
            look = f"ravelctl log show --from {self.agreed_index + 1} --to {self.differed_index} --replica {names[0]}"
            return f"their states differ: {since}\nwhat was written in between: `{look}`"
        return f"their states differ since entry {self.differed_index} at the latest; when they were the same is not known"

    @property
    def data(self) -> dict[str, Any]:
        if not self.index:
            return {"compared": False, "why": self.why}
        found: dict[str, Any] = {"compared": True, "index": U64(self.index), "term": U64(self.term), "same": self.same}
        if not self.same:
            found |= {"agreed_index": U64(self.agreed_index), "differed_index": U64(self.differed_index)}
        return found


async def live_states(app: App, a: LiveLog, b: LiveLog, *, required: bool) -> StatePair:
    """Have their leader compare. What hinders that is raised where the comparison is `required`, and else told."""
    try:
        found = await ask_leader(app, (a.address, b.address))
    except (RavelError, CommandError) as error:
        if required:
            raise
        return StatePair(0, 0, False, why=error.message)
    hashes = {one.replica_id: one for one in found.replicas}
    pair = hashes.get(a.replica_id), hashes.get(b.replica_id)
    if pair[0] is None or pair[1] is None:
        stranger = a.name if pair[0] is None else b.name
        return StatePair(0, 0, False, why=f"{stranger} is no member of the cluster any more")
    return _pair(found.index, found.term, pair[0], pair[1])


def _pair(index: int, term: int, a: ReplicaStateHash, b: ReplicaStateHash) -> StatePair:
    if silent := next((one for one in (a, b) if not one.sha256), None):
        return StatePair(0, 0, False, why=f"{silent.name} gave no hash: {silent.problem}")
    if a.sha256 == b.sha256:
        return StatePair(index, term, True)
    # Where both differ from others, that they were the same is certain only of the time before either was first seen astray.
    astray = [one for one in (a, b) if one.differs]
    agreed = min(one.agreed_index for one in astray)
    return StatePair(index, term, False, agreed, max(one.differed_index for one in astray))
