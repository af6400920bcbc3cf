"""Connections that fail before there is a call: who tried, and why it did not come about.

gRPC hands such a connection to nobody. All it does is print, to file descriptor 2 and only if its tracing of handshakes was
switched on before it was loaded. So with TLS that descriptor is a pipe which the daemon reads on its loop: lines about failed
handshakes become events, gRPC's other chatter is dropped, and what anybody else prints there is passed on. The daemon's own
log goes to where the descriptor led before. Nothing of this is on the path of a call: gRPC traces a handshake with five lines,
and writes them without waiting for a reader (what does not fit into the pipe is lost).

Whoever sets GRPC_TRACE or GRPC_VERBOSITY wants to read gRPC's own words: then nothing is caught.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final

import structlog

from ravel_node.log_output import LogOutput
from ravel_node.transport.handshakes import ENDED_EARLY, handshake_failure

READ_BYTES: Final = 64 << 10
LINE_BYTES_MAX: Final = 64 << 10
"""A line that is longer is passed on in pieces."""

_TALKS: Final = {"GRPC_VERBOSITY": "INFO", "GRPC_TRACE": "handshaker"}

_GRPC_LINE: Final = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\] ")
_GRPC_MORE: Final = re.compile(r"=== Source Location Trace|src/c| shutdown=|WARNING: All log messages before absl|$")
_FAILED: Final = re.compile(
    r"CallNextHandshakerLocked: error=(?!OK )(?P<error>.*?) shutdown=\S+ index=\d+, args=(?P<args>.*)", re.DOTALL
)
_ADDRESSES: Final = re.compile(r"endpoint_local_address=(?P<local>[^,]+), .*?endpoint_peer_address=(?P<peer>[^,]+), ")
_SERVER_SIDE: Final = "grpc.internal.server_credentials="

_log = structlog.get_logger(__name__)


def make_library_talk(environ: MutableMapping[str, str], *, tls: bool) -> None:
    """Set what gRPC reads when it is loaded. Without TLS it is silent: peers that go away are told as events, once.

    A silence that was inherited (from a `ravelctl playground`, say) is nobody's wish to read gRPC's own words.
    """
    if "GRPC_TRACE" in environ or environ.get("GRPC_VERBOSITY", "NONE") != "NONE":
        return
    environ.update(_TALKS if tls else {"GRPC_VERBOSITY": "NONE"})


class LibraryOutput:
    """File descriptor 2, caught. Made after the log has taken over stderr: this is for what libraries print there."""

    def __init__(self, log: LogOutput) -> None:
        self._passed_on = log
        self._before = os.dup(2)
        self._pipe, writing = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(writing, False)  # a thread of gRPC must never wait for the loop
        os.dup2(writing, 2)
        os.close(writing)
        faulthandler.enable(self._before)  # a crash leaves no time to read the pipe
        self._unfinished = b""

    @classmethod
    def if_it_talks(cls, environ: Mapping[str, str], log: LogOutput) -> LibraryOutput | None:
        """None where `make_library_talk` did not make it talk to us."""
        return cls(log) if all(environ.get(name) == value for name, value in _TALKS.items()) else None

    def start(self, handshakes: HandshakeLog) -> None:
        """Read on the running loop from now on."""
        asyncio.get_running_loop().add_reader(self._pipe, self._readable, handshakes)

    def _readable(self, handshakes: HandshakeLog) -> None:
        """One read a turn: what anybody can cause by dialling must not hold up the loop."""
        raw = os.read(self._pipe, READ_BYTES)
        whole, newline, rest = (self._unfinished + raw).rpartition(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            whole, newline, rest = whole + newline + rest, b"", b""
        self._unfinished = rest
        if passed_on := handshakes.take((whole + newline).decode("utf-8", "replace")):
            self._passed_on.text(passed_on.encode())

    def close(self) -> None:
        """Give the descriptor back. Call on the loop."""
        os.dup2(self._before, 2)
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)


class HandshakeLog:
    """Turns what gRPC prints of failed handshakes into events. `ports` are the names of our ports by their numbers."""

    def __init__(self, ports: Mapping[int, str]) -> None:
        self._ports = ports

    def take(self, text: str) -> str:
        """Take whole lines; returns those that are not gRPC's."""
        passed_on: list[str] = []
        for record, is_grpc in _records(text):
            if not is_grpc or record.startswith("F"):  # its last words
                passed_on.append(record)
            elif found := _FAILED.search(record):
                self._tell(found["error"], found["args"])
        return "".join(passed_on)

    def _tell(self, error: str, arguments: str) -> None:
        addresses = _ADDRESSES.search(arguments)
        if _SERVER_SIDE not in arguments or addresses is None or not (why := handshake_failure(error)):
            return  # connections that this daemon dials are told by who dials them
        local, (caller, _) = _host_and_port(addresses["local"]), _host_and_port(addresses["peer"])
        port = self._ports.get(local[1], str(local[1]))
        # What only looks whether the port is open (a load balancer, say) ends like this too, and is no reason to worry.
        tell = _log.info if why == ENDED_EARLY else _log.warning
        tell("server.handshake_failed", port=port, caller=caller, why=why)


def _records(text: str) -> Iterator[tuple[str, bool]]:
    """Each record of gRPC with the lines that continue it, and each other line; and whether it is gRPC's."""
    record = ""
    for line in text.splitlines(keepends=True):
        starts = _GRPC_LINE.match(line) is not None
        if record and not starts and _GRPC_MORE.match(line):
            record += line
            continue
        if record:
            yield record, True
            record = ""
        if starts:
            record = line
        elif not _GRPC_MORE.match(line):
            yield line, False
    if record:
        yield record, True


def _host_and_port(address: str) -> tuple[str, int]:
    """Of "ipv4:127.0.0.1:7400" or "ipv6:%5B::1%5D:7400"."""
    host, _, port = address.partition(":")[2].rpartition(":")
    return host.replace("%5B", "").replace("%5D", "").strip("[]"), int(port) if port.isdigit() else 0
