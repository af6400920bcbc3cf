"""What gRPC says of a TLS handshake that failed, in words that an operator can act on. "It" is the far end."""

from __future__ import annotations

import re
from typing import Final

HANDSHAKE_FAILED: Final = "HANDSHAKE_FAILED"
"""The reason of a call that ended because its connection could not be made safe. Never on the wire."""

ENDED_EARLY: Final = "it ended the connection in the middle of the handshake: it may not trust this server's certificate"

REFUSES_OURS: Final = (
    "it refuses this server's certificate: it does not trust its authority, dialled another name, or finds it expired"
)

_FAILED: Final = re.compile(
    r"handshake failed|Handshake read failed|Hostname Verification Check failed|Cannot check peer", re.IGNORECASE
)

# The first that is found in what gRPC says holds. BoringSSL's names of reasons do not change; its sentences hardly do.
_WORDS: Final = (
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet"),
    ("unsupported certificate purpose", "its certificate is not made for this side of a connection (extended key usage)"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is signed by an authority that this server does not trust"),
    ("Hostname Verification Check failed", "its certificate does not hold the name or address that was dialled"),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "it showed no certificate, and this port asks for one"),
    ("ALERT_UNKNOWN_CA", "it does not trust the authority of this server's certificate"),
    ("ALERT_CERTIFICATE_EXPIRED", "it finds the certificate of this server expired"),
    ("ALERT_CERTIFICATE_REQUIRED", "it asks for a certificate and was shown none"),
    ("ALERT", REFUSES_OURS),
    # OpenSSL says why in plain text where TLS 1.3 wants it encrypted (it has no keys yet), so this is all that is left of it.
    ("BAD_PACKET_LENGTH", REFUSES_OURS),
    ("WRONG_VERSION_NUMBER", "it speaks plain text, and this side TLS"),
    ("HTTP_REQUEST", "it speaks plain text, and this side TLS"),
    ("missing selected ALPN", "it speaks TLS but no HTTP/2"),
    (
        "Handshake read failed",
        "it ended the connection in the middle of the handshake: it may not trust this server's certificate",
    ),
)


def handshake_failure(details: str) -> str:
    """Why the handshake failed of which gRPC says `details`; empty: they are not about a handshake."""
    if not _FAILED.search(details):
        return ""
    return next((words for sign, words in _WORDS if sign in details), f"the handshake failed ({_last(details)})")


def _last(details: str) -> str:
    """The innermost cause in gRPC's chain of them."""
    return details.partition("\n")[0].removesuffix(": OK").rpartition(":")[2].strip()[:200]
