"""`ravelctl store`: what lies on a replica's disk, how much of it, and whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import REPLICA, Effect, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravelctl.store.stats import EnvironmentRow, StoreStats

KEEP: Final = 1_000
_replica_option = click.option(
    "--replica", type=REPLICA, help="Whose: a name or an id. [default: the first endpoint's that answers]"
)
_data_dir_option = click.option("--data-dir", type=click.Path(), help="Read this directory instead of asking a daemon.")


@click.group("store", cls=RavelGroup)
def command() -> None:
    """Measure, check and compact what a replica keeps on its disk."""


def _exclusive(data_dir: str | None, replica: str | None) -> None:
    if data_dir is not None and replica is not None:
        raise usage_error("--data-dir and --replica exclude each other", "give one of them")


# --- stats


@command.command("stats", watchable=True)
@_replica_option
@_data_dir_option
@pass_app
def stats(app: App, replica: str | None, data_dir: str | None) -> View | Work:
    """Show how large log and state are, and how much of their files is free.

    USED are pages in use; FREE ones are used again before the file grows, and `store compact` gives them back.
    """
    _exclusive(data_dir, replica)
    if data_dir is not None:
        from ravelctl.offline.store import directory_stats

        return _stats_view(directory_stats(data_dir))
    return _stats(app, replica)


async def _stats(app: App, replica: str | None) -> View:
    from ravelctl.store.stats import replica_stats

    return _stats_view(await replica_stats(app, replica))


def _stats_view(found: StoreStats) -> View:
    from dataclasses import asdict

    return View(
        kind="StoreStats",
        data={
            "source": found.source,
            "environments": [asdict(row) for row in found.environments],
            **{name: U64(value) for name, value in found.numbers.items()},
            **({"owner": found.owner} if found.owner is not None else {}),
        },
        body=Table(
            columns=columns("ENVIRONMENT", "DATABASE", "RECORDS", "USED", "FREE", "+MAP", "+READERS"),
            rows=tuple(cells for row in found.environments for cells in _stats_rows(row)),
            below=(*(f"{name.replace('_', ' ')} {_number(name, value)}" for name, value in found.numbers.items()), *found.notes),
        ),
        names=tuple(row.name for row in found.environments),
    )


def _number(name: str, value: int) -> str:
    return size_text(value) if name.endswith("_bytes") else str(value)


def _stats_rows(row: EnvironmentRow) -> Sequence[tuple[str, ...]]:
    whole = (size_text(row.used_bytes), size_text(row.free_bytes), size_text(row.map_size_bytes), str(row.readers))
    parts = [(row.name, part.name, str(part.records), size_text(part.bytes), ABSENT, ABSENT, ABSENT) for part in row.databases]
    return [(row.name, ABSENT, ABSENT, *whole), *parts]


# --- check


@command.command("check")
@_replica_option
@_data_dir_option
@pass_app
def check(app: App, replica: str | None, data_dir: str | None) -> View | Work:
    """Read everything and verify it: check sums, the log's continuity, keys and slots, sessions, membership, snapshots.

    A replica checks itself in short steps while it serves. Exits 8 if anything is wrong.
    """
    _exclusive(data_dir, replica)
    from ravelctl.store.checking import check_directory, check_replica

    if data_dir is not None:
        return check_directory(app, data_dir, log_only=False)
    return check_replica(app, replica, log_only=False)


# --- compact


@command.command("compact", effect=Effect.PLANS)
@click.option(
    "--keep", type=Whole(0), default=KEEP, show_default=True,
    help="Log entries to leave, for followers that were away for a moment.",
)  # fmt: skip
@_replica_option
@click.option("--data-dir", type=click.Path(), help="Rewrite the files of this stopped daemon without their free pages.")
@pass_app
def compact(app: App, keep: int, replica: str | None, data_dir: str | None) -> View | Work:
    """Drop log entries that a replica does not need, or give free pages of a stopped one back to the disk.

    A replica never drops what is not applied and on disk, what a follower that answers still needs, or what a snapshot in
    transfer needs. With --data-dir nothing is dropped: log and state are copied without their free pages, verified, and put in
    place.
    """
    _exclusive(data_dir, replica)
    if data_dir is not None:
        from ravelctl.offline.store import compact_directory, compactable

        if app.settings.dry_run:
            return _compacted_directory(data_dir, compactable(data_dir), dry=True)
        return _compacted_directory(data_dir, compact_directory(app, data_dir), dry=False)
    return _compact(app, keep, replica)


async def _compact(app: App, keep: int, replica: str | None) -> View:
    from ravelctl.cli import dial
    from ravelctl.cluster.sources import source
    from ravelctl.config.settings import TRANSFER_TIMEOUT_S

    chosen = await source(app, replica)
    dry, timeout_s = app.settings.dry_run, app.settings.wait_timeout_s(TRANSFER_TIMEOUT_S)
    async with dial.inspect(app) as client:
        done = await client.compact(chosen.address, keep=keep, dry_run=dry, timeout_s=timeout_s)
    dropped = done.first_index - done.first_index_before
    data: dict[str, Any] = {
        "source": chosen.name,
        "dropped": U64(dropped),
        "first_index": U64(done.first_index),
        "last_index": U64(done.last_index),
        "log_used_bytes_before": U64(done.log_used_bytes_before),
        "log_used_bytes": U64(done.log_used_bytes),
        "held_by": done.held_by,
        "dry_run": dry,
    }
    entries, sizes = count_text(dropped, "entry", "entries"), size_text(done.log_used_bytes_before)
    if dry:
        body = f"{chosen.name}: {entries} would be dropped, first {done.first_index} then, log {sizes} now"
    else:
        body = f"{chosen.name}: {entries} dropped, first {done.first_index}, log {sizes} to {size_text(done.log_used_bytes)}"
    return View(
        kind="StoreCompact",
        data=data,
        body=f"{body}\n{done.held_by}".rstrip(),
        names=(chosen.name,),
        notes=("dry run: nothing was changed",) if dry else (),
    )


def _compacted_directory(data_dir: str, sizes: dict[str, tuple[int, int]], *, dry: bool) -> View:
    return View(
        kind="StoreCompact",
        data={
            "source": data_dir,
            "environments": [{"name": n, "bytes_before": U64(old), "bytes": U64(new)} for n, (old, new) in sizes.items()],
            "dry_run": dry,
        },
        body=Table(
            columns=columns("ENVIRONMENT", "NOW" if dry else "BEFORE", "THEN" if dry else "AFTER"),
            rows=tuple((name, size_text(old), size_text(new)) for name, (old, new) in sizes.items()),
        ),
        names=tuple(sizes),
        notes=("dry run: nothing was changed",) if dry else (),
    )


# --- hash


@command.command("hash")
@click.option(
    "--data-dir", type=click.Path(), multiple=True, help="Hash this directory's state instead of asking daemons; may be repeated."
)  # fmt: skip
@pass_app
def hash_states(app: App, data_dir: tuple[str, ...]) -> View | Work:
    """Have every replica hash its state at one and the same entry of the log, and compare.

    Asks the leader, which does so by itself every --checksum-interval-s, too. With --data-dir states of the same entry are
    compared. Exits 8 where two differ; then `-o name` prints whose.
    """
    from ravelctl.store.state_hashes import compare_directories, compare_replicas

    return compare_directories(app, data_dir) if data_dir else compare_replicas(app)
