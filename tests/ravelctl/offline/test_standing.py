"""Who is in the cluster by a directory whose log knows of changes that its state does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ravel_node.machine.members import encode_context
from ravel_node.raft import ChangeType, ConfChange, ConfChangeV2, Entry, HardState, Index, ReplicaId, Term
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.storage.base import Save
from ravel_node.storage.store import open_store
from ravelctl.offline import directory
from ravelctl.offline.doctor import look
from ravelctl.offline.recovery import survivor
from tests.ravelctl.offline.support import OPTIONS, flip_log_byte, make, puts
from tests.server.fakes import record

FIVE = record(4), record(5)


def entry(index: int, change: ConfChange | ConfChangeV2) -> Entry:
    kind, data = encode_conf_change(change)
    return Entry(Term(3), Index(index), kind, data)


def commit(path: Path, index: int) -> None:
    """The directory learns that its log is committed so far; nothing is applied."""

    async def save() -> None:
        store = await open_store(path, OPTIONS)
        await store.save([Save(hard_state=HardState(Term(3), ReplicaId(0), Index(index)))])
        await store.close()

    asyncio.run(save())


def test_committed_changes_in_the_log_count_and_others_do_not(tmp_path: Path) -> None:
    added = [
        entry(20 + n, ConfChange(ChangeType.ADD_VOTER, one.replica_id, encode_context([one]))) for n, one in enumerate(FIVE, 1)
    ]
    removed = entry(23, ConfChange(ChangeType.REMOVE, ReplicaId(1)))
    path = make(tmp_path / "d", puts(2, 20), raw=[*added, removed])
    assert look(str(path)).voters == (1, 2, 3)

    commit(path, 22)
    found = look(str(path))
    assert (found.voters, found.config_index, found.applied) == ((1, 2, 3, 4, 5), 22, 20)
    assert [(member.name, member.removed) for member in found.members] == [(f"n{n}", False) for n in (1, 2, 3, 4, 5)]
    assert (survivor(path).halves[0], survivor(path).names[5]) == ((1, 2, 3, 4, 5), "n5")

    commit(path, 23)
    found = look(str(path))
    assert (found.voters, found.config_index) == ((2, 3, 4, 5), 23)
    assert [member.name for member in found.members if member.removed] == ["n1"]


def test_a_change_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    change = entry(21, ConfChange(ChangeType.ADD_VOTER, ReplicaId(4), encode_context([record(4)])))
    path = make(tmp_path / "d", puts(2, 20), raw=[change])
    commit(path, 21)
    flip_log_byte(path, 21)
    facts = directory.look(path)
    assert directory.standing(path, facts).conf_state.voters == (1, 2, 3)
    assert any(found.code == "RV603" for found in look(str(path)).damage)
