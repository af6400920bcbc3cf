"""Authorities and certificates that tests make for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK: Final = ("127.0.0.1", "localhost")
BOTH: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_PEM: Final = serialization.Encoding.PEM
_SIGNS: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
"""What an authority does with its key."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; `cert` is the file of its own.

    They are as RFC 5280 wants them, which is what Python 3.13 and later check. With `strict=False` they lack key identifiers and
    the usage of the authority's key, as those of many small scripts do.
    """

    def __init__(self, folder: Path, name: str, *, strict: bool = True) -> None:
        self._folder = folder
        self._strict = strict
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self._name, self._key.public_key(), -10, 10)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if strict:
            certificate = certificate.add_extension(_SIGNS, critical=True)
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = LOOPBACK,
        *,
        from_days: float = -9,
        to_days: float = 9,
        purposes: tuple[x509.ObjectIdentifier, ...] = BOTH,
        password: bytes | None = None,
    ) -> Pair:
        """A certificate for these hosts, valid from and until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), from_days, to_days)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
        pair.key.chmod(0o600)
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, from_days: float, to_days: float
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=from_days))
            .not_valid_after(now + timedelta(days=to_days))
        )
        if not self._strict:
            return builder
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False).add_extension(
            signer, critical=False
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def server_flags(clients: Authority, server: Pair, *, mutual: bool = True) -> list[str]:
    """Flags of the client port; `mutual`: clients must show a certificate."""
    flags = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-ca", str(clients.cert)]
    return [*flags, "--tls-client-ca", str(clients.cert)] if mutual else flags


def peer_flags(peers: Authority, peer: Pair, name: str | None = None) -> list[str]:
    flags = ["--peer-tls-cert", str(peer.cert), "--peer-tls-key", str(peer.key), "--peer-tls-ca", str(peers.cert)]
    return [*flags, "--peer-tls-name", name] if name else flags


def client_flags(authority: Authority, shown: Pair | None = None) -> list[str]:
    """Flags of ravelctl."""
    flags = ["--cacert", str(authority.cert)]
    return [*flags, "--cert", str(shown.cert), "--key", str(shown.key)] if shown else flags
