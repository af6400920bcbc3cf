"""Sizes of a data directory, and how a stopped daemon's free pages are given back to the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ravel_node.storage.engine import DATA_FILE
from ravel_node.storage.hashing import hash_state
from ravel_node.storage.rewriting import rewrite_directory
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64
from ravelctl.offline import directory
from ravelctl.store.stats import PAGE_BYTES, EnvironmentRow, StoreStats, database_row

if TYPE_CHECKING:
    from ravelctl.cli.app import App


@dataclass(frozen=True, slots=True)
class DirectoryHash:
    """`term` and `index` are of the last entry that was applied to the state."""

    data_dir: str
    name: str
    index: int
    term: int
    sha256: str
    records: int


def directory_stats(data_dir: str) -> StoreStats:
    """Read them. Raises CommandError."""
    facts = directory.look(Path(data_dir))
    rows = tuple(
        EnvironmentRow(
            env.name,
            U64(env.used),
            U64(env.free),
            U64(env.map_size),
            env.readers,
            tuple(database_row(part.name, part.entries, part.pages, PAGE_BYTES) for part in env.databases),
        )
        for env in facts.environments
    )
    numbers = {
        "snapshots_bytes": sum(file.size_bytes for file in facts.snapshots),
        "incoming_bytes": sum(file.size_bytes for file in facts.incoming),
        "all_files_bytes": facts.file_bytes,
        "disk_free_bytes": facts.disk_free_bytes,
        "format": facts.format,
    }
    note = f"process {facts.owner} has it open" if facts.owner else "no process has it open"
    return StoreStats(data_dir, rows, numbers, facts.owner, (note, *facts.problems))


def compactable(data_dir: str) -> dict[str, tuple[int, int]]:
    """What `compact_directory` would make of it: bytes of log and state now, and without free pages. Raises CommandError."""
    path = Path(data_dir)
    _require_stopped(directory.reader(path).owner, data_dir)
    return {env.name: (env.used + env.free, env.used) for env in directory.look(path).environments}


def _require_stopped(owner: str, data_dir: str) -> None:
    if owner:
        raise CommandError(
            f"process {owner} has {data_dir} open: its files cannot be replaced now",
            code=ExitCode.REFUSED,
            next_step="stop that daemon first, or have it drop log entries with `ravelctl store compact --replica NAME`",
        )


def compact_directory(app: App, data_dir: str) -> dict[str, tuple[int, int]]:
    """Rewrite log and state without free pages; bytes of each before and after. Raises CommandError."""
    path = Path(data_dir)
    _require_stopped(directory.reader(path).owner, data_dir)
    with directory.told(), app.progress(f"rewriting {data_dir}:") as progress:
        try:
            return rewrite_directory(path, progress.update)
        except OSError as error:
            raise CommandError(
                f"{data_dir} cannot be rewritten: {error.strerror or error}; it is as it was",
                next_step="make room for a copy of the larger of its two environments, and repeat the command",
            ) from error


def hash_directory(data_dir: str) -> DirectoryHash:
    """The hash of the applied state, as a daemon makes it at a checksum entry. Blocks as long as the state takes to read.

    It is one read transaction: a daemon that runs meanwhile cannot reuse the pages that it frees. Raises CommandError.
    """
    found = directory.reader(Path(data_dir))
    with directory.told():
        name = found.look().log.identity
        state = found.current_state()
        hashed = state.read(lambda txn: hash_state(txn, f"{state.path.name}/{DATA_FILE}", lambda: None))
    return DirectoryHash(
        data_dir, name.name if name is not None else "", hashed.at.index, hashed.at.term, hashed.sha256.hex(), hashed.records
    )
