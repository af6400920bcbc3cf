"""TLS of a client: the files that it uses, and the reason why a connection failed.

gRPC says little about a handshake that failed, and about some nothing but "Socket closed". So when a connection fails, the client
dials the endpoint once more, without gRPC, and reports the failure that it finds.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ravelctl.client.connection.certificates import Shown, client_context, fault, findings, leaf, moment, names_of, validity
from ravelctl.client.errors import InvalidArgumentError, UnreachableError

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

EXPLAIN_TIMEOUT_S: Final = 1.0
"""How long one examination of an endpoint may wait for an answer."""

HTTP2_OPENING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""The first bytes of an HTTP/2 client: with TLS 1.3 only the answer to them shows whether the server accepted our certificate."""

SETTINGS_FRAME_TYPE: Final = 4


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Files in PEM form: the authority that signed the servers' certificates, and the certificate that this client shows."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Raise InvalidArgumentError with every fault of the files, if there is one."""
        if (self.cert is None) != (self.key is None):
            raise InvalidArgumentError("a client's certificate and its key are given together, or neither of them")
        if found := [finding.why for finding in findings(cert=self.cert, key=self.key, authorities=(self.ca,))]:
            raise InvalidArgumentError("; ".join(found))


class HandshakeError(UnreachableError):
    """The endpoint is there, but the TLS handshake fails. Only an operator can change that."""


class Explanation(NamedTuple):
    why: str
    next_step: str


def explain(endpoint: str, tls: TlsOptions | None) -> Explanation | None:
    """Return why a connection to `endpoint` fails, if TLS is the cause; None: it is not, or the cause is unknown.

    Blocks, at most for EXPLAIN_TIMEOUT_S a step: call it on a thread.
    """
    try:
        return _why_plain_fails(endpoint) if tls is None else _why_tls_fails(endpoint, tls)
    except OSError:
        return None  # it cannot be reached, or does not answer in time


def _why_plain_fails(endpoint: str) -> Explanation | None:
    import ssl

    speaks_tls = Explanation(f"{endpoint} speaks TLS and this client does not", "give the file of its authority with --cacert")
    try:
        with _shaken(endpoint, client_context(None)):
            return speaks_tls
    except ssl.SSLError as error:
        return speaks_tls if _is_alert(error) else None


def _why_tls_fails(endpoint: str, tls: TlsOptions) -> Explanation | None:
    import ssl

    try:
        with _shaken(endpoint, client_context(tls.ca, tls.cert, tls.key)) as connection:
            return _why_not_taken(endpoint, tls, connection)
    except ssl.SSLCertVerificationError as error:
        why = fault(error, lambda context: _glimpse(endpoint, context), tls.ca, _host(endpoint))
        return Explanation(f"the certificate of {endpoint} {why}", _next_step(why))
    except ssl.SSLError as error:
        if _is_alert(error):
            return _refused(endpoint, tls)
        if error.reason in _NO_TLS:
            return Explanation(
                f"{endpoint} speaks plain text and this client speaks TLS",
                "check the address; if that daemon is meant to run without TLS, leave out --cacert",
            )
        return Explanation(f"no TLS connection with {endpoint}: {(error.reason or str(error)).lower().replace('_', ' ')}", "")
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return _refused(endpoint, tls)


def _why_not_taken(endpoint: str, tls: TlsOptions, connection: ssl.SSLSocket) -> Explanation | None:
    """Return why the server refuses a handshake that is done on this side; None: it does not, so TLS is not the cause."""
    connection.sendall(HTTP2_OPENING)
    head = connection.recv(9)
    if not head:
        return _refused(endpoint, tls)
    if len(head) < 4 or head[3] != SETTINGS_FRAME_TYPE:
        return Explanation(f"what answers at {endpoint} speaks TLS but no HTTP/2", "check the address")
    return None


def _refused(endpoint: str, tls: TlsOptions) -> Explanation:
    """Explain a handshake that the server ended: it refuses this client's certificate, or misses one."""
    if tls.cert is None:
        return Explanation(f"{endpoint} asks for a client certificate and was shown none", "give one with --cert and --key")
    _, ends = validity(leaf(tls.cert))
    return Explanation(
        f"{endpoint} does not accept the certificate in {tls.cert} (valid until {moment(ends)})",
        "use one that the authority of its --tls-client-ca signed; its log says what is wrong with this one",
    )


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
"""OpenSSL's names for an answer that is no TLS."""


def _next_step(why: str) -> str:
    if "expired" in why or "not valid" in why:
        return "renew it there, and check the clocks of both machines"
    if "signed by" in why:
        return "check --cacert, and that this is the address for clients: peers have an authority of their own"
    return "dial it by a name that its certificate holds, or give it another certificate"


def _is_alert(error: ssl.SSLError) -> bool:
    """Return whether the far end refused with a TLS alert."""
    return "ALERT" in (error.reason or "")


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def _shaken(endpoint: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a connection whose handshake is done on this side. Raises OSError, of which ssl.SSLError is one."""
    connection = socket.create_connection((_host(endpoint), int(endpoint.rpartition(":")[2])), timeout=EXPLAIN_TIMEOUT_S)
    try:
        return context.wrap_socket(connection, server_hostname=_host(endpoint))
    except BaseException:
        connection.close()
        raise


def shown_until(endpoint: str, tls: TlsOptions) -> datetime:
    """Return the end of validity of the certificate that this endpoint shows. Blocks like `explain`.

    Raises OSError, or ValueError if it shows none.
    """
    with _shaken(endpoint, client_context(None, tls.cert, tls.key)) as connection:
        return validity(connection.getpeercert(binary_form=True) or b"")[1]


def _glimpse(endpoint: str, context: ssl.SSLContext) -> Shown | None:
    """Return the certificate of an endpoint without verifying it; None if even that fails."""
    try:
        with _shaken(endpoint, context) as connection:
            return Shown(connection.getpeercert(binary_form=True) or b"", names_of(connection.getpeercert()))
    except OSError:
        return None
