"""A data directory as doctor sees it: `ravel_node.storage`'s look, with all damage sorted by what it is."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import size_text
from ravelctl.diagnosis.seen import Damage, Directory, DirectoryMember
from ravelctl.offline import directory

if TYPE_CHECKING:
    from ravel_node.storage.standing import Standing
    from ravel_node.storage.survey import DirectoryFacts

READ_THROUGH_BYTES_MAX: Final = 256 << 20
"""A directory whose files are larger is not read through: `store check` does that, with patience."""

_CODE_OF_PART: Final = {"log": "RV603", "state": "RV604", "positions": "RV609", "snapshots": "RV605"}
_CODE_OF_EXIT: Final = {ExitCode.DAMAGED: "RV603", ExitCode.REFUSED: "RV607", ExitCode.USAGE: "RV606"}
"""Of a directory that cannot be entered at all."""


def look(data_dir: str) -> Directory:
    """One directory, of a daemon that runs, hangs or is dead. Never raises for what is wrong with it."""
    path = Path(data_dir)
    try:
        facts = directory.look(path)
    except CommandError as error:
        return _barred(path, error)
    found = list(_damage_at_a_look(facts))
    unread = ""
    if facts.file_bytes > READ_THROUGH_BYTES_MAX:
        unread = f"its {size_text(facts.file_bytes)}, which were not read through (`ravelctl store check` does)"
    else:
        found += _damage_all_through(path)
    damage = {one.said: one for one in reversed(found)}  # what both say counts as the first look sorts it
    return _directory(path, facts, tuple(reversed(damage.values())), unread)


def _barred(path: Path, error: CommandError) -> Directory:
    there = path.is_dir()
    code = _CODE_OF_EXIT.get(error.code, "RV608") if there else "RV608"
    if error.code is ExitCode.DAMAGED and "state-" in error.message:
        code = "RV604"
    return Directory(str(path), damage=(Damage(code, error.message),), next_step=error.next_step)


def _damage_at_a_look(facts: DirectoryFacts) -> Iterator[Damage]:
    of_log, of_state = facts.log.problems, facts.state.problems if facts.state is not None else ()
    for problem in facts.problems:
        if problem in of_log:
            yield Damage("RV603", problem)
        elif problem in of_state or (facts.state is None and problem.startswith(("state", str(facts.path)))):
            yield Damage("RV604", problem)
        elif problem.startswith("snapshots/"):
            yield Damage("RV605", problem)
        else:
            yield Damage("RV609" if facts.state is not None else "RV604", problem)


def _damage_all_through(path: Path) -> Iterator[Damage]:
    """Every record read. A live daemon may replace files meanwhile: what cannot be read then is no damage."""
    try:
        for step in directory.check(path):
            yield from (Damage(_CODE_OF_PART.get(step.part, "RV609"), problem) for problem in step.problems)
    except CommandError as error:
        if error.code is ExitCode.DAMAGED:
            yield Damage("RV604" if "state-" in error.message else "RV603", error.message)


def _directory(path: Path, facts: DirectoryFacts, damage: tuple[Damage, ...], unread: str) -> Directory:
    log, state, identity = facts.log, facts.state, facts.log.identity
    standing = directory.standing(path, facts)
    state_env = facts.environments[1] if len(facts.environments) > 1 else None
    return Directory(
        path=str(path),
        damage=damage,
        owner=facts.owner,
        owner_stopped=_is_stopped(facts.owner),
        cluster_id=identity.cluster_id if identity else "",
        cluster_name=(state.cluster_name if state else "") or (identity.cluster_name if identity else ""),
        replica_id=int(identity.replica_id) if identity else 0,
        server_id=identity.server_id if identity else "",
        name=_name(facts, standing),
        removed=identity.removed if identity else False,
        term=int(log.hard_state.term) if log.hard_state else 0,
        commit=int(log.hard_state.commit) if log.hard_state else 0,
        first_index=int(log.first_index),
        last_index=int(log.last_index),
        last_term=facts.last_term,
        applied=int(state.applied.index) if state and state.applied else 0,
        config_index=int(standing.config_index),
        voters=_ids(standing.conf_state.voters),
        outgoing=_ids(standing.conf_state.voters_outgoing),
        members=tuple(_members(standing)),
        state_bytes=state_env.used if state_env else 0,
        disk_free_bytes=facts.disk_free_bytes,
        mode=stat.S_IMODE(path.stat().st_mode),
        unread=unread,
    )


def _name(facts: DirectoryFacts, standing: Standing) -> str:
    """By its member record, which is newer than what the directory was made with."""
    identity = facts.log.identity
    if identity is None:
        return ""
    return next((record.name for record in standing.members if record.server_id == identity.server_id), identity.name)


def _ids(replicas: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(map(int, replicas)))


def _members(standing: Standing) -> Iterator[DirectoryMember]:
    for record in standing.members:
        yield DirectoryMember(
            replica_id=int(record.replica_id),
            server_id=record.server_id,
            name=record.name,
            listen=record.listen,
            version=record.version,
            format=record.format,
            removed=record.removed,
        )


def _is_stopped(process: str) -> bool:
    """Whether a process of this machine is stopped by a signal or a debugger (proc(5), the third field of stat)."""
    try:
        text = Path("/proc", process, "stat").read_text() if process.isdecimal() else ""
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] in (["T"], ["t"])
