"""One connection of the gateway: uvicorn's, with bounds for what comes before a handler sees anything.

A caller may send a head without end, send it a byte at a time, send a body that nobody reads, or take no answer. Each of these
ends the connection, after a clear answer where one can be given: a connection costs memory and counts against a bound.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ravel_node.gateway.errors import HttpError
from ravelpb.errors import Reason

HEAD_BYTES_MAX: Final = 64 << 10
"""Of the request line with all headers, trailers too."""

HEADER_FRAME_BYTES: Final = 4
"""Of each header: colon, space, line end."""

HEAD_TIMEOUT_S: Final = 10.0
"""A head must have arrived by then, from its first byte; of the first one, from the beginning of the connection."""

MESSAGE_TIMEOUT_S: Final = 20.0
"""A body must have, from the end of its head, whether a handler reads it or not. Who reads it waits for BODY_TIMEOUT_S."""

UNTAKEN_TIMEOUT_S: Final = 30.0
"""A caller that takes an answer so slowly that it cannot be put into its buffer for so long is cut off."""


class BoundedProtocol(HttpToolsProtocol):
    """See the module. Two bounds hold: of what a head has said, and of bytes that came without saying anything, counted from the
    end of the read in which the parser told of something last."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._head_bytes = 0  # of names and values of this message
        self._unheard_bytes = 0  # fed since the parser last told of anything: half a header, say
        self._in_head = True
        self._refusal: HttpError | None = None
        self._due: asyncio.TimerHandle | None = None  # when this message must have come further
        self._untaken: asyncio.TimerHandle | None = None

    # --- what comes in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._stop_waiting_for_the_taker()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unheard_bytes += len(data)
        super().data_received(data)
        if self._unheard_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refusal = _head_too_large()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._unheard_bytes = 0
        self._in_head = True
        self._expect(HEAD_TIMEOUT_S)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + HEADER_FRAME_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unheard_bytes = 0
        self._expect(MESSAGE_TIMEOUT_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unheard_bytes = 0
        self._expect(None)
        super().on_message_complete()

    def _count(self, size: int) -> None:
        """Raises what ends the parsing of this connection."""
        self._unheard_bytes = 0
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refusal = _head_too_large()
            raise ValueError("the head is too large")

    # --- time

    def _expect(self, within_s: float | None) -> None:
        """Something must come by then; None: nothing is waited for."""
        if self._due is not None:
            self._due.cancel()
        self._due = None if within_s is None else self.loop.call_later(within_s, self._overdue)

    def _overdue(self) -> None:
        if self.pipeline:  # it is we who do not read: an earlier request of this connection is being served
            self._expect(MESSAGE_TIMEOUT_S)
        elif self.transport.is_closing():
            self.transport.abort()
        elif self._in_head and (self._head_bytes or self._unheard_bytes) and self._answers_nothing():
            self._refusal = HttpError(408, Reason.TIMEOUT, f"the head of the request did not arrive within {HEAD_TIMEOUT_S:g} s")
            self.send_400_response("")
        else:
            self.transport.abort()

    def _answers_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection ends; one whose answer was not taken meanwhile would never be closed in order."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    # --- what goes out

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.call_later(UNTAKEN_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_the_taker()
        super().resume_writing()

    def _stop_waiting_for_the_taker(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the form that every error has."""
        if self.transport.is_closing():
            return
        refusal = self._refusal or HttpError(400, Reason.INVALID_ARGUMENT, "this is not an HTTP/1.1 request")
        answer = refusal.response()
        headers = [b"%b: %b\r\n" % header for header in (*answer.raw_headers, (b"connection", b"close"))]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *headers, b"\r\n", bytes(answer.body)]))
        self.transport.close()


def _head_too_large() -> HttpError:
    return HttpError(
        431,
        Reason.REQUEST_TOO_LARGE,
        f"the request line and headers have more than {HEAD_BYTES_MAX} bytes",
        next_step="send less",
    )
