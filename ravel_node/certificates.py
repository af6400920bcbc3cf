"""Whether the files that the TLS settings name will do: told before anything starts, all at once.

Beside each file by itself, a handshake is rehearsed in memory, as other daemons will make it with this one: it finds what no look
at one file finds (another authority, a name that is missing, a certificate that is not made for that side of a connection).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ravel_node.config import PeerTlsConfig, Problem, TlsConfig
from ravelctl.client.connection.certificates import RehearsalError, client_context, findings, rehearse, server_context


def client_problems(tls: TlsConfig, host: str | None) -> Iterator[Problem]:
    """What is wrong with the files of the client port; `host` is what clients dial, None where that is not known."""
    cert, key, authority = tls.tls_cert, tls.tls_key, tls.authority
    given = tuple(path for path in (tls.tls_client_ca, tls.tls_ca) if path is not None)
    if found := list(_file_problems(tls, cert, key, given)):
        yield from found
    elif cert is not None and key is not None and authority is not None and host is not None:
        try:
            rehearse(server_context(cert, key, tls.tls_client_ca), client_context(authority, cert, key), authority, host)
        except RehearsalError as error:
            if error.by_server:
                yield Problem(
                    ("tls_cert", "tls_client_ca"),
                    f"tls_cert ({cert}) {error}, and members that ask for a client's certificate are shown this one: it must "
                    f"do for clients too, so put its authority into --tls-client-ca ({tls.tls_client_ca}) and allow clientAuth",
                )
            else:
                yield Problem(
                    ("tls_cert", "tls_ca", "advertise"), f"tls_cert ({cert}) {error}: clients that dial it will refuse it"
                )


def peer_problems(tls: PeerTlsConfig, host: str | None) -> Iterator[Problem]:
    """The same for the peer port, where every certificate is shown on both sides; `host` is what peers dial."""
    cert, key, authority = tls.peer_tls_cert, tls.peer_tls_key, tls.peer_tls_ca
    name = tls.peer_tls_name or host
    if found := list(_file_problems(tls, cert, key, (authority,) if authority is not None else ())):
        yield from found
    elif cert is not None and key is not None and authority is not None and name is not None:
        try:
            rehearse(server_context(cert, key, authority), client_context(authority, cert, key), authority, name)
        except RehearsalError as error:
            about = "peer_tls_name" if tls.peer_tls_name else "peer_advertise"
            yield Problem(("peer_tls_cert", "peer_tls_ca", about), f"peer_tls_cert ({cert}) {error}: peers will refuse it")


def _file_problems(part: Any, cert: Path | None, key: Path | None, authorities: tuple[Path, ...]) -> Iterator[Problem]:
    names = {getattr(part, name): name for name in part.__dataclass_fields__}
    for finding in findings(cert=cert, key=key, authorities=tuple(dict.fromkeys(authorities))):
        about = tuple(names[path] for path in finding.at)
        yield Problem(about, f"{' and '.join(about)}: {finding.why}")
