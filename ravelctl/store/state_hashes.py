"""`store hash`: do all replicas, or the directories of dead ones, hold the same at the same entry of the log?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.offline.store import DirectoryHash
    from ravelpb.v1.inspect_pb2 import ReplicaStateHash, StateHashResponse

HASH_TIMEOUT_S: Final = 900.0
"""As long as the leader waits for a replica that hashes."""

SHOWN_DIGITS: Final = 16
"""Hex digits of a hash in the table; `wide` and JSON have all 64."""


async def compare_replicas(app: App) -> View:
    """Have the leader compare, and show what each replica holds. Exit code 8 where two differ."""
    return _view_of_replicas(await ask_leader(app))


async def ask_leader(app: App, endpoints: Sequence[str] = ()) -> StateHashResponse:
    """The leader's comparison, of the cluster at `endpoints` (by default those of the settings), made now.

    Raises CommandError: 3 nobody answers, 4 no leader; RavelError: a member's version does not know how.
    """
    from ravelctl.cli import dial
    from ravelctl.cluster.membership import cluster_status

    async with dial.cluster(app) as client:
        leader = (await cluster_status(app, client, endpoints, need_leader=True)).server
    with app.progress("hashing:") as progress:
        progress.update(f"asked {leader.name}, which leads")
        async with dial.inspect(app) as inspect:
            timeout_s = app.settings.wait_timeout_s(HASH_TIMEOUT_S)
            return await inspect.state_hash(leader.addresses.listen, timeout_s=timeout_s)


def _view_of_replicas(found: StateHashResponse) -> View:
    differ = [one.name for one in found.replicas if one.differs]
    silent = [one.name for one in found.replicas if not one.sha256]
    return View(
        kind="StateHash",
        data={
            "index": U64(found.index),
            "term": U64(found.term),
            "equal": not differ,
            "replicas": [_replica_data(one) for one in found.replicas],
        },
        body=Table(
            columns=columns("NAME", "STATE", "+AGREED", "HASH", "+SHA256"),
            rows=tuple(_replica_cells(one) for one in found.replicas),
            below=(_verdict(found, differ, silent), *(f"{one.name}: {one.problem}" for one in found.replicas if one.problem)),
        ),
        names=tuple(differ),
        code=ExitCode.DAMAGED if differ else ExitCode.DONE,
    )


def _replica_data(one: ReplicaStateHash) -> dict[str, Any]:
    data: dict[str, Any] = {"replica_id": U64(one.replica_id), "name": one.name}
    data |= {"sha256": one.sha256.hex(), "differs": one.differs}
    if one.problem:
        data["problem"] = one.problem
    if one.differs:
        data |= {"agreed_index": U64(one.agreed_index), "differed_index": U64(one.differed_index)}
    return data


def _replica_cells(one: ReplicaStateHash) -> tuple[str, ...]:
    state = "differs" if one.differs else "same" if one.sha256 else "unknown"
    agreed = (str(one.agreed_index) if one.agreed_index else "never") if one.differs else ABSENT
    return (one.name, state, agreed, one.sha256.hex()[:SHOWN_DIGITS] or ABSENT, one.sha256.hex() or ABSENT)


def _verdict(found: StateHashResponse, differ: Sequence[str], silent: Sequence[str]) -> str:
    at = f"entry {found.index} of term {found.term}"
    if not differ:
        return f"at {at} all hold the same" if not silent else f"at {at} those that answered hold the same"
    ranges = [
        f"{one.name} went astray after entry {one.agreed_index} and not later than {one.differed_index}"
        if one.agreed_index
        else f"{one.name} went astray not later than entry {one.differed_index}"
        for one in found.replicas
        if one.differs
    ]
    return f"at {at} the states differ: {'; '.join(ranges)}"


# --- directories


def compare_directories(app: App, data_dirs: Sequence[str]) -> View:
    """Hash the states of directories, and compare those of the same entry. Nothing is dialled, and nothing is written."""
    from ravelctl.offline.store import hash_directory

    found: list[DirectoryHash] = []
    with app.progress("hashing:") as progress:
        for data_dir in data_dirs:
            progress.update(data_dir)
            found.append(hash_directory(data_dir))
    return _view_of_directories(found)


def _view_of_directories(found: Sequence[DirectoryHash]) -> View:
    hashes: dict[tuple[int, int], set[str]] = {}
    for one in found:
        hashes.setdefault((one.term, one.index), set()).add(one.sha256)
    clashes = sorted(at for at, different in hashes.items() if len(different) > 1)
    notes = [f"at entry {index} of term {term} the states differ" for term, index in clashes]
    if len(found) > 1 and not clashes:
        alike = len(hashes) == 1
        notes.append("all hold the same" if alike else "only states of the same entry can be compared, and those are the same")
    return View(
        kind="StateHash",
        data={
            "equal": not clashes,
            "directories": [
                {
                    "data_dir": one.data_dir,
                    "name": one.name,
                    "index": U64(one.index),
                    "term": U64(one.term),
                    "sha256": one.sha256,
                    "records": U64(one.records),
                }
                for one in found
            ],
        },
        body=Table(
            columns=columns("DIRECTORY", "NAME", "INDEX", "TERM", "HASH", "+RECORDS", "+SHA256"),
            rows=tuple(
                (
                    one.data_dir,
                    one.name or ABSENT,
                    str(one.index),
                    str(one.term),
                    one.sha256[:SHOWN_DIGITS],
                    str(one.records),
                    one.sha256,
                )
                for one in found
            ),
            below=tuple(notes),
        ),
        names=tuple(one.sha256 for one in found),
        code=ExitCode.DAMAGED if clashes else ExitCode.DONE,
    )
