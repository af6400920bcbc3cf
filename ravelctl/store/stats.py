"""Sizes of a store, whether a daemon tells them or they are read from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravelctl.cli.output import U64

if TYPE_CHECKING:
    from ravelctl.cli.app import App


@dataclass(frozen=True, slots=True)
class DatabaseRow:
    name: str
    records: U64
    bytes: U64  # of its pages


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """Sizes in bytes."""

    name: str
    used_bytes: U64
    free_bytes: U64
    map_size_bytes: U64
    readers: int  # transactions that read it now, those of the daemon itself too
    databases: tuple[DatabaseRow, ...]


@dataclass(frozen=True, slots=True)
class StoreStats:
    source: str
    environments: tuple[EnvironmentRow, ...]
    numbers: Mapping[str, int]  # named as in JSON; sizes end in _bytes
    owner: str | None = None  # the process that has the directory open, where it was looked for; empty: none
    notes: tuple[str, ...] = field(default=())


def database_row(name: str, records: int, pages: int, page_bytes: int) -> DatabaseRow:
    return DatabaseRow(name, U64(records), U64(pages * page_bytes))


PAGE_BYTES = 4096
"""LMDB's pages, on every machine that it is usually run on; used only to show a database's share."""


async def replica_stats(app: App, replica: str | None) -> StoreStats:
    """Ask a daemon."""
    from ravelctl.cli import dial
    from ravelctl.cluster.sources import source

    chosen = await source(app, replica)
    async with dial.inspect(app) as client:
        found = await client.store_stats(chosen.address)
    rows = tuple(
        EnvironmentRow(
            env.name,
            U64(env.used_bytes),
            U64(env.free_bytes),
            U64(env.map_size_bytes),
            env.readers,
            tuple(database_row(part.name, part.entries, part.pages, PAGE_BYTES) for part in env.databases),
        )
        for env in found.environments
    )
    numbers = {"unflushed_bytes": found.unflushed_bytes, "unflushed_segments": found.unflushed_segments, "format": found.format}
    return StoreStats(chosen.name, rows, numbers)
