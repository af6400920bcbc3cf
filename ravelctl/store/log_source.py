"""Where the entries of a log come from: a daemon that is asked, or a data directory that is read. Commands see no difference.

Loads grpc only where a daemon is asked, and the store only where a directory is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ravelctl.cli.errors import usage_error
from ravelctl.store.log_entries import DAMAGED, LogEntry, LogPart, LogQuery

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.client import InspectClient


class LogSource(Protocol):
    """One log."""

    name: str

    def parts(self, query: LogQuery) -> AsyncIterator[LogPart]:
        """At least one part. Raises RavelError or CommandError."""
        ...


class LiveLog:
    """The log of a daemon, as it lies on its disk."""

    def __init__(self, name: str, address: str, client: InspectClient) -> None:
        self.name = name
        self.address = address
        self.replica_id = 0
        """Told by the first page."""
        self._client = client

    async def parts(self, query: LogQuery) -> AsyncIterator[LogPart]:
        pages = self._client.read_log(
            self.address,
            from_index=query.from_index,
            to_index=query.to_index,
            limit=query.limit,
            tail=query.tail,
            term=query.term,
            types=query.types,
            key_prefix=query.key_prefix,
            since_ms=query.since_ms,
            until_ms=query.until_ms,
            with_digest=query.digests,
        )
        async for page in pages:
            self.replica_id = page.header.replica_id
            # A daemon that knows no times yet leaves nothing out: that is done here.
            dated = [e for e in page.entries if e.time_ms or e.type == DAMAGED or not query.by_time]
            yield LogPart(
                tuple(LogEntry(e.index, e.term, e.type, e.bytes, tuple(e.summary), e.digest, e.time_ms) for e in dated),
                page.next_index,
                page.first_index,
                page.last_index,
                page.commit_index,
                page.snapshot_index,
                page.snapshot_term,
                page.untimed + len(page.entries) - len(dated),
            )


async def live_log(app: App, client: InspectClient, replica: str | None) -> LiveLog:
    """The log of the named replica, else of the first endpoint that answers. Raises CommandError."""
    from ravelctl.cluster.sources import source

    chosen = await source(app, replica)
    return LiveLog(chosen.name, chosen.address, client)


def directory_log(path: str) -> LogSource:
    """The log in a data directory. Raises CommandError where there is none."""
    from ravelctl.offline.logs import DirectoryLog

    return DirectoryLog(Path(path))


def is_directory(word: str) -> bool:
    """Whether a word that may name a replica, an address or a directory names a directory."""
    return "/" in word or Path(word).is_dir()


async def log_side(app: App, client: InspectClient, word: str) -> LogSource:
    """The log that a word names: a data directory if it has a slash or is one, an address if it has a colon, else a replica."""
    from ravelctl.config.settings import endpoint

    if is_directory(word):
        return directory_log(word)
    if ":" not in word:
        return await live_log(app, client, word)
    try:
        return LiveLog(word, endpoint(word), client)
    except ValueError as error:
        raise usage_error(str(error)) from error
