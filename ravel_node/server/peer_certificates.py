"""Whether the certificate that a replica shows is that replica's.

The handshake has proved that the peers' authority signed it. But one member's certificate must not do for another's place in the
cluster: it has to be valid for the host that the cluster knows the caller at, or for the one name that all peers carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import structlog

from ravel_node.raft.types import ReplicaId
from ravel_node.replica.errors import WrongIdentityError
from ravel_node.server.binding import CallInfo

NAMES_SHOWN_MAX: Final = 5
"""Names of a certificate that a message lists."""

_log = structlog.get_logger(__name__)


class PeerCertificates:
    """`name` is what every peer's certificate must be valid for; None: each for the host of its own peer address."""

    def __init__(self, name: str | None) -> None:
        self._name = name

    def check(self, peer: ReplicaId, address: str, info: CallInfo | None) -> None:
        """Raises WrongIdentityError unless the certificate of this call is that of the replica at `address`."""
        names = info.peer_names if info is not None else None
        wanted = self._name or address.rpartition(":")[0].strip("[]")
        if names is not None and covers(names, wanted):
            return
        shown = ", ".join(names[:NAMES_SHOWN_MAX]) if names else "no name"
        why = (
            f"the certificate that replica {peer} shows is valid for {shown} and not for {wanted}: give it one that is, "
            "or all peers a name in common with --peer-tls-name"
        )
        caller = info.peer.rpartition(":")[0] if info is not None else ""  # its port is another one each time
        _log.warning("server.peer_refused", peer=peer, caller=caller, why=why)
        raise WrongIdentityError(why)


def covers(names: Sequence[str], host: str) -> bool:
    """Whether a certificate with these names is valid for `host`, a name or an address (RFC 9525: `*` is one whole label, the
    first)."""
    ip = _ip(host)
    if ip is not None:
        return any(_ip(name) == ip for name in names)
    wanted = host.lower().rstrip(".")
    _, _, parent = wanted.partition(".")
    return any(name.lower() in (wanted, f"*.{parent}" if parent else wanted) for name in names)


def _ip(text: str) -> object:
    try:
        return ip_address(text)
    except ValueError:
        return None
