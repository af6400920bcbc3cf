"""Certificates and keys become gRPC's credentials: here and nowhere else, so that reading them anew one day has one place.

Files were checked when the configuration was loaded; OSError says that one is gone since.
"""

from __future__ import annotations

import grpc

from ravel_node.config import PeerTlsConfig, TlsConfig
from ravel_node.transport.calls import ChannelFactory, insecure_channel, secure_channel_factory
from ravelctl.client import TlsOptions


def client_port(tls: TlsConfig) -> grpc.ServerCredentials | None:
    """For the client port; None: plain text."""
    if tls.tls_cert is None or tls.tls_key is None:
        return None
    pair = (tls.tls_key.read_bytes(), tls.tls_cert.read_bytes())
    client_ca = tls.tls_client_ca.read_bytes() if tls.tls_client_ca is not None else None
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)


def peer_port(tls: PeerTlsConfig) -> grpc.ServerCredentials | None:
    """For the peer port, where every caller shows a certificate; None: plain text."""
    if tls.peer_tls_cert is None or tls.peer_tls_key is None or tls.peer_tls_ca is None:
        return None
    pair = (tls.peer_tls_key.read_bytes(), tls.peer_tls_cert.read_bytes())
    return grpc.ssl_server_credentials([pair], tls.peer_tls_ca.read_bytes(), require_client_auth=True)


def peer_channels(tls: PeerTlsConfig) -> ChannelFactory:
    """What dials other replicas, and shows them the same certificate."""
    if tls.peer_tls_cert is None or tls.peer_tls_key is None or tls.peer_tls_ca is None:
        return insecure_channel
    credentials = grpc.ssl_channel_credentials(
        tls.peer_tls_ca.read_bytes(), tls.peer_tls_key.read_bytes(), tls.peer_tls_cert.read_bytes()
    )
    return secure_channel_factory(credentials, tls.peer_tls_name)


def as_client(tls: TlsConfig) -> TlsOptions | None:
    """What this server uses where it is a client of other servers; it shows them its own certificate if they ask for one."""
    return TlsOptions(tls.authority, tls.tls_cert, tls.tls_key) if tls.authority is not None else None
