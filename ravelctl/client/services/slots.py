"""SlotsClient: which slots a cluster owns, and the steps of a move. Answers are the protobuf messages of slots.proto."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ravelctl.client.errors import RavelError
from ravelctl.client.services.service_client import ServiceClient
from ravelctl.client.services.unary import ask_leader, stream_from
from ravelpb.v1.slots_pb2 import (
    IMPORT_CHUNK,
    ChangeSlotsRequest,
    ChangeSlotsResponse,
    OwnershipRequest,
    OwnershipResponse,
    ReadSlotsRequest,
    ReadSlotsResponse,
)
from ravelpb.v1.slots_pb2_grpc import SlotsStub


class SlotsClient(ServiceClient):
    """Asks the leader of one cluster, which it follows from any endpoint.

    Every call takes `timeout_s`, or the client's own if it is None. All errors are RavelError: RefusedError with MOVE_REFUSED for
    a step that does not fit, UnsupportedVersionError while a member does not know slots, QuotaExceededError, ...
    """

    async def ownership(self, *, timeout_s: float | None = None) -> OwnershipResponse:
        """What the cluster owns, and the moves under way, as of a read barrier."""
        return await ask_leader(
            self._channels,
            self._retry,
            lambda channel: SlotsStub(channel).Ownership(OwnershipRequest()),
            timeout_s=self._limit_s(timeout_s),
            repeatable=True,
        )

    async def change(self, request: ChangeSlotsRequest, *, timeout_s: float | None = None) -> ChangeSlotsResponse:
        """Take one step. It is repeated until it is answered; but a chunk whose answer is lost is OutcomeUnknownError, and
        `ownership` tells which one is taken next: sent again it would be refused even if it was this one that was taken."""
        return await ask_leader(
            self._channels,
            self._retry,
            lambda channel: SlotsStub(channel).ChangeSlots(request),
            timeout_s=self._limit_s(timeout_s),
            repeatable=request.step != IMPORT_CHUNK,
        )

    async def read(
        self,
        slots: Sequence[int] = (),
        *,
        keys_only: bool = False,
        noted_for_move: int = 0,
        linearizable: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ReadSlotsResponse, None]:
        """The pages of these slots, or of what was noted for a move; each page fits into one chunk.

        The leader is looked for at the beginning; when a page cannot be had the caller reads anew. What was
        noted up to the first page's revision has been shown once all pages were read; later notes may have been missed.
        `timeout_s` is the time for each page.
        """
        limit_s = self._limit_s(timeout_s)
        request = ReadSlotsRequest(slots=slots, keys_only=keys_only, noted_for_move=noted_for_move, linearizable=linearizable)
        await self.ownership(timeout_s=limit_s)  # finds the leader
        endpoint = self._channels.choose()
        pages = stream_from(self._channels, endpoint, lambda channel: SlotsStub(channel).ReadSlots(request), timeout_s=limit_s)
        try:
            async with aclosing(pages):
                async for page in pages:
                    yield page
        except RavelError as error:
            await self._channels.failed(endpoint, error, attempt=1)
            raise
