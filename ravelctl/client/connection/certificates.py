"""Faults of certificates, keys and authorities, in words: found in the files alone, or in the certificate that a far end shows.

Used before anything is dialled or served (a daemon checks its configuration with it, a client its options), and by
`tls.explain` to say why a connection failed. It uses only the standard library's `ssl`, which knows everything but the dates of
a certificate that it does not accept; those are read here. `ssl` is loaded when it is first needed, so that commands without
TLS do not pay for it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import ssl

PEM_FILE_BYTES_MAX: Final = 1 << 20
"""Certificates and keys have a few kilobytes, a bundle of authorities some hundred."""

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# OpenSSL's numbers for the faults of a certificate (X509_V_ERR_*) that are distinguished here.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_AUTHORITY: Final = (2, 7, 18, 19, 20, 21)
_WRONG_PURPOSE: Final = 26
_WRONG_NAME: Final = (62, 63, 64)


class Finding(NamedTuple):
    """One fault. `at` is the file, or files, that have it."""

    at: tuple[Path, ...]
    why: str


def findings(*, cert: Path | None, key: Path | None, authorities: tuple[Path, ...]) -> Iterator[Finding]:
    """Yield every fault of these files by themselves. No sentence contains the content of a file."""
    readable = []
    for path in (cert, key, *authorities):
        if path is not None:
            why = _unreadable(path)
            if why:
                yield Finding((path,), why)
            else:
                readable.append(path)
    if key in readable and key is not None and (why := _exposed(key)):
        yield Finding((key,), why)
    if cert in readable and cert is not None:
        yield from _certificate_findings(cert, key if key in readable else None)
    for path in authorities:
        if path in readable and (why := _no_authority(path)):
            yield Finding((path,), why)


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = len(file.read(PEM_FILE_BYTES_MAX + 1))
    except OSError as error:
        return f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
    return f"{path} is no PEM file: it is larger than {PEM_FILE_BYTES_MAX} bytes" if size > PEM_FILE_BYTES_MAX else ""


def _exposed(key: Path) -> str:
    """Return why a private key is exposed; empty: it is not. A group may read a key that root keeps for a daemon that is not
    root."""
    found = key.stat()
    mode = stat.S_IMODE(found.st_mode)
    shared_by_root = found.st_uid == 0 and os.geteuid() != 0
    if mode & (0o037 if shared_by_root else 0o077):
        return f"{key} is a private key that others than its owner can reach (mode {mode:04o}): chmod 600 it"
    return ""


def _certificate_findings(cert: Path, key: Path | None) -> Iterator[Finding]:
    import ssl

    try:
        begins, ends = validity(leaf(cert))
    except ValueError:
        yield Finding((cert,), f"{cert} holds no certificate in PEM form")
        return
    now = datetime.now(UTC)
    if ends < now:
        yield Finding((cert,), f"the certificate in {cert} expired on {moment(ends)}")
    if begins > now:
        yield Finding((cert,), f"the certificate in {cert} is not valid before {moment(begins)}")
    if key is None:
        return
    try:
        _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield Finding((cert, key), f"the key in {key} does not belong to the certificate in {cert}")
        elif "ENCRYPTED" in key.read_text(errors="replace"):
            yield Finding((key,), f"the key in {key} is encrypted, and nobody can be asked for its passphrase: decrypt it")
        else:
            yield Finding((cert, key), f"the certificate in {cert} and the key in {key} cannot be used: {_plain(error)}")


def _no_authority(path: Path) -> str:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{path} holds no certificate of an authority in PEM form"
    return ""


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    # Without a password OpenSSL would ask for one on the terminal.
    context.load_cert_chain(cert, key, password=lambda: "")


def _plain(error: ssl.SSLError) -> str:
    return (error.reason or "they are not in PEM form").lower().replace("_", " ")


# --- contexts, and a handshake that goes nowhere


def server_context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the context of a server that shows `cert` and, with `client_ca`, asks its callers for their certificate."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(context, cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def client_context(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return the context of a client that trusts `ca`; with None it accepts every certificate, only to look at it."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    if cert is not None and key is not None:
        _load_pair(context, cert, key)
    context.set_alpn_protocols(["h2"])
    return context


class RehearsalError(Exception):
    """A handshake would fail. `by_server`: because the server refuses the client's certificate."""

    def __init__(self, why: str, *, by_server: bool) -> None:
        super().__init__(why)
        self.by_server = by_server


def rehearse(server: ssl.SSLContext, client: ssl.SSLContext, ca: Path, host: str) -> None:
    """Make the handshake of a server and of a client that trusts `ca` and dials it as `host`, in memory.

    Raises RehearsalError with the fault of a certificate: "expired on ...", "is valid for a and not for b", ...
    """
    import ssl

    try:
        _, refused = _in_memory(server, client, host)
    except ssl.SSLCertVerificationError as error:
        why = fault(error, lambda context: _shown(_in_memory(server, context, host)[0]), ca, host)
        raise RehearsalError(why, by_server=False) from None
    except ssl.SSLError as error:
        raise RehearsalError(f"cannot be used: {_plain(error)}", by_server=False) from None
    if refused is not None:
        raise RehearsalError(_refusal(refused), by_server=True)


def _in_memory(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> tuple[ssl.SSLObject, ssl.SSLError | None]:
    """Return the client's end of a handshake, and why the server refused it if it did.

    The client's end is done before the server has checked its certificate. Raises the ssl.SSLError of the client's end.
    """
    import ssl

    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=host)
    far = server.wrap_bio(up, down, server_side=True)
    waiting = [near, far]
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                if end is near:
                    raise
                return near, error
    return near, None


def _refusal(error: ssl.SSLError) -> str:
    match getattr(error, "verify_code", 0):
        case code if code in _UNKNOWN_AUTHORITY:
            return "is signed by another authority"
        case code if code == _WRONG_PURPOSE:
            return "is not made for clients (its extended key usage lacks clientAuth)"
    return f"is refused: {_plain(error)}"


# --- what is wrong with the certificate that a far end shows


class Shown(NamedTuple):
    """The certificate of a far end: in DER, and the names that it is valid for (empty unless it was verified)."""

    der: bytes
    names: tuple[str, ...]


def _shown(end: ssl.SSLObject) -> Shown:
    return Shown(end.getpeercert(binary_form=True) or b"", names_of(end.getpeercert()))


def fault(error: ssl.SSLCertVerificationError, look: Callable[[ssl.SSLContext], Shown | None], ca: Path, host: str) -> str:
    """Return the fault that `error` names, as the words that follow "the certificate ...".

    `look` makes the handshake once more, with a context that accepts more, to learn dates and names.
    """
    code = error.verify_code
    if code in (_EXPIRED, _NOT_YET_VALID):
        shown = look(client_context(None))
        if shown is None or not shown.der:
            return "has expired, or is not valid yet"
        begins, ends = validity(shown.der)
        return f"expired on {moment(ends)}" if code == _EXPIRED else f"is not valid before {moment(begins)}"
    if code in _WRONG_NAME:
        lenient = client_context(ca)
        lenient.check_hostname = False
        shown = look(lenient)
        names = ", ".join(shown.names) if shown is not None else ""
        return f"is valid for {names or 'no name'} and not for {host}"
    if code in _UNKNOWN_AUTHORITY:
        return f"is signed by an authority that {ca} does not hold"
    if code == _WRONG_PURPOSE:
        return "is not made for servers (its extended key usage lacks serverAuth)"
    return f"cannot be verified: {error.verify_message}"


def names_of(shown: object) -> tuple[str, ...]:
    """Return the names and addresses that a certificate, as `getpeercert` returns it, is valid for."""
    pairs = shown.get("subjectAltName", ()) if isinstance(shown, dict) else ()
    return tuple(value for kind, value in pairs if kind in ("DNS", "IP Address"))


# --- dates


def moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def leaf(path: Path) -> bytes:
    """Return the first certificate of a PEM file, in DER: the one that is shown. Raises ValueError if there is none."""
    import ssl

    found = _CERTIFICATE.search(path.read_text(errors="replace"))
    if found is None:
        raise ValueError(f"{path} holds no certificate")
    return ssl.PEM_cert_to_DER_cert(found[0])


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Return the times from which and until which a certificate is valid (RFC 5280, section 4.1). Raises ValueError."""
    try:
        at = _Part(der, _Part(der, 0).begin).begin  # into Certificate, into TBSCertificate
        if _Part(der, at).tag == _VERSION_TAG:
            at = _Part(der, at).end
        for _ in range(3):  # serial number, algorithm, issuer
            at = _Part(der, at).end
        first = _Part(der, _Part(der, at).begin)
        return first.time(), _Part(der, first.end).time()
    except IndexError:
        raise ValueError("the bytes end in the middle of a certificate") from None


_VERSION_TAG: Final = 0xA0
_UTC_TIME_TAG: Final = 0x17


class _Part:
    """One value of DER: its tag, and where its content begins and ends."""

    def __init__(self, der: bytes, at: int) -> None:
        self._der = der
        self.tag, length = der[at], der[at + 1]
        self.begin = at + 2
        if length & 0x80:  # long form: so many bytes hold the length
            count = length & 0x7F
            length = int.from_bytes(der[self.begin : self.begin + count], "big")
            self.begin += count
        self.end = self.begin + length

    def time(self) -> datetime:
        text = self._der[self.begin : self.end].decode("ascii", "replace")
        if self.tag == _UTC_TIME_TAG:  # two digits of the year: 1950 to 2049
            text = ("19" if text[:2] >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
