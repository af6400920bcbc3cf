"""Watches: the changes of a range in the order of revisions, none twice, none left out, whatever happens to servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import InvalidArgumentError, WrongClusterError, WrongServerError
from ravelctl.client.session.message_stream import MessageStream
from ravelctl.client.session.position import alone, read_position, write_position
from ravelctl.client.session.scan import range_of_prefix
from ravelctl.client.types import WatchEvent
from ravelpb.errors import Field, Reason
from ravelpb.v1.kv_pb2 import ClusterPosition, KeyEvent, WatchPosition, WatchRequest, WatchResponse

PROGRESS_MS: Final = 1_000
"""How often a server is asked to report how far its stream is complete."""


def watch_request(
    *, key: bytes | None, prefix: bytes | None, start: bytes, end: bytes | None, from_revision: int | None
) -> WatchRequest:
    """Return the request of a watch.

    Raises InvalidArgumentError for a key, a prefix and a range that exclude each other, and for a revision below 1.
    """
    if (key is not None) + (prefix is not None) + (bool(start) or end is not None) > 1:
        raise InvalidArgumentError("a watch is for a key, for a prefix or for a range", next_step="give one of them")
    if from_revision is not None and from_revision < 1:
        raise InvalidArgumentError(f"from_revision is {from_revision}, and the first revision is 1")
    if key is not None and not key:
        raise InvalidArgumentError("the key is empty", reason=Reason.KEY_EMPTY, next_step="leave it out to watch all keys")
    if prefix is not None:
        start, end = range_of_prefix(prefix)
    return WatchRequest(key=key or b"", start=start, end=end or b"", from_revision=from_revision or 0, progress_ms=PROGRESS_MS)


class Watch(ABC):
    """Changes as they happen: an async iterator of `WatchEvent` without end, and a context that ends the watch.

    `RavelClient.watch` makes one. Used by one task.
    """

    def __init__(self) -> None:
        self._events: deque[WatchEvent] = deque()
        self._begun = False  # every cluster that is watched has answered
        self._handed = 0  # of the message that _events are from: the revision of the newest event that was handed out
        self._done = 0  # everything up to it was handed out, and the next event was asked for

    @property
    @abstractmethod
    def revision(self) -> int:
        """All changes up to this revision were handed out, and the next one was asked for: another watch continues at it + 1.

        It grows while nothing happens in the range, too. 0 before the watch has begun, and while it watches several clusters:
        they count their revisions apart, and `position` is the place to resume at.
        """

    @property
    @abstractmethod
    def position(self) -> str:
        """The place of the watch, as `RavelClient.watch(after=...)` takes it: everything before it was handed out, and the next
        change was asked for. It moves on while nothing happens in the range, too. Empty before the watch has begun.
        """

    @property
    @abstractmethod
    def counts_alone(self) -> bool:
        """Whether `revision` says as much as `position`: the watch is at one cluster, which knows no map of slots."""

    async def started(self) -> int:
        """Begin, unless it has begun, and return `revision`: what comes after it is handed out. Raises what iterating does."""
        while not self._begun:
            await self._fetch()
        return self.revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        """Return the next change.

        Raises CompactedError if no replica has it any more, WrongClusterError if slots have left or come at a watch of one
        cluster, and other RavelErrors if no replica could be asked in time.
        """
        while not self._events:
            self._settle()
            await self._fetch()
        event = self._events.popleft()
        if event.revision > self._handed:
            self._done, self._handed = max(self._done, self._handed), event.revision
        return event

    async def __aenter__(self) -> Self:
        await self.started()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the watch. A task that waits for the next change gets ClosedError."""
        self._leave()

    @abstractmethod
    async def _fetch(self) -> None:
        """Take one more message, if one comes soon."""

    @abstractmethod
    def _settle(self) -> None:
        """Take in that every event of the last message was handed out and the next one is asked for."""

    @abstractmethod
    def _leave(self) -> None:
        """End what waits for messages."""


def events_of(message: WatchResponse, after: int = 0) -> Iterable[WatchEvent]:
    """Yield the changes of a message above a revision."""
    events = [event for event in message.events if event.revision > after]
    follow = [*(event.revision for event in events[1:]), 0]
    for event, following in zip(events, follow, strict=False):
        value = event.value if event.kind == KeyEvent.PUT else None
        yield WatchEvent(event.key, value, event.revision, more=event.revision == following)


class ClusterWatch(Watch):
    """A watch at one cluster, whose client knows no other one."""

    def __init__(
        self,
        request: WatchRequest,
        connections: Connections,
        retry: RetryPolicy,
        timeout_s: float,
        outage_max_s: float | None,
        after: str | None = None,
    ) -> None:
        """Raises InvalidArgumentError if `after` is the position of a watch of several clusters."""
        super().__init__()
        self._names_key = bool(request.key)
        self._map_version: int | None = None  # by which the slots stood when the watch began
        self._expected_id = ""
        if after is not None:
            place = alone(read_position(after))
            if place is None:
                raise InvalidArgumentError(
                    "the position is that of a watch of several clusters", next_step="give the addresses of the admin group"
                )
            request.from_revision = place.revision + 1
            self._map_version, self._expected_id = place.map_version, place.cluster_id
        self._stream = MessageStream(request, connections, retry, timeout_s, outage_max_s)
        self._cluster_id = ""

    @property
    def revision(self) -> int:
        return self._done

    @property
    def counts_alone(self) -> bool:
        return not self._map_version

    @property
    def position(self) -> str:
        if not self._begun:
            return ""
        place = ClusterPosition(cluster_id=self._cluster_id, revision=self._done, map_version=self._map_version or 0)
        return write_position(WatchPosition(clusters=[place]))

    async def _fetch(self) -> None:
        message = await self._stream.next()
        self._check(message)
        if not self._begun:
            self._done = message.revision
        self._events += events_of(message, self._stream.received if self._begun else 0)
        self._stream.take(message)
        self._begun = True

    def _check(self, message: WatchResponse) -> None:
        """Raise an error if this message is not the continuation of what came before."""
        self._cluster_id = message.header.cluster_id
        if self._expected_id and self._cluster_id != self._expected_id:
            raise WrongServerError(
                f"the position is one of cluster {self._expected_id}, and cluster {self._cluster_id} answers",
                reason=Reason.WRONG_CLUSTER_ID,
                metadata={Field.CLUSTER_ID: self._cluster_id},
                next_step="read the keys again, and watch without a position",
            )
        if self._map_version is None or self._names_key:
            self._map_version = message.map_version
        elif message.map_version > self._map_version:
            self._stream.close()
            raise WrongClusterError(
                f"slots of this cluster have moved: it stands by version {message.map_version} of the map, and stood by version "
                f"{self._map_version}; keys have left or come with them, and their further changes are not all here",
                metadata={Field.MAP_VERSION: str(message.map_version)},
                next_step="read the keys again, and watch at the admin group, which follows slots: `ravelctl admin clusters`",
            )

    def _settle(self) -> None:
        if self._begun:
            self._done = max(self._done, self._stream.received)

    def _leave(self) -> None:
        self._stream.end()
