"""SlotsClient: the slots that a cluster owns, and the steps of a move. Answers are the protobuf messages of slots.proto."""

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
    """The calls of the Slots service. Each follows the leader of one cluster from any endpoint.

    Every call takes `timeout_s`, or the client's own if it is None. All errors are RavelError: RefusedError with MOVE_REFUSED for
    a step that does not fit, UnsupportedVersionError while a member does not support slots, QuotaExceededError, ...
    """

    async def ownership(self, *, detail: bool = False, timeout_s: float | None = None) -> OwnershipResponse:
        """Return the slots of the cluster and its open moves, as of a read barrier; with `detail` versions and held slots too."""
        return await ask_leader(
            self._connections,
            self._retry,
            lambda channel: SlotsStub(channel).Ownership(OwnershipRequest(detail=detail)),
            timeout_s=self._limit_s(timeout_s),
            repeatable=True,
        )

    async def change(self, request: ChangeSlotsRequest, *, timeout_s: float | None = None) -> ChangeSlotsResponse:
        """Take one step of a move. It is repeated until it is answered.

        A chunk is not repeated: if its answer is lost, the call raises OutcomeUnknownError, and `ownership` says which chunk
        comes next. Sent again, a chunk that was taken would be refused.
        """
        return await ask_leader(
            self._connections,
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
        """Yield the pages of these slots, or of the keys noted for a move; each page fits into one chunk.

        The leader is looked for at the beginning; after an error the caller reads from the start. All pages together show what
        was noted up to the first page's revision; later notes may be missing. `timeout_s` is the time for each page.
        """
        limit_s = self._limit_s(timeout_s)
        request = ReadSlotsRequest(slots=slots, keys_only=keys_only, noted_for_move=noted_for_move, linearizable=linearizable)
        await self.ownership(timeout_s=limit_s)  # finds the leader
        endpoint = self._connections.choose()
        pages = stream_from(
            self._connections,
            self._retry,
            endpoint,
            lambda channel: SlotsStub(channel).ReadSlots(request),
            timeout_s=limit_s,
            named=False,
        )
        try:
            async with aclosing(pages):
                async for page in pages:
                    yield page
        except RavelError as error:
            await self._connections.failed(endpoint, error, attempt=1)
            raise
