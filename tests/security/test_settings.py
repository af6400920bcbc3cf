"""What the daemon says of its TLS settings before it starts: everything at once, no file's content, exit 2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from ravel_node.config import ConfigError
from ravel_node.settings import Loaded, load
from tests.security.certificates import Authority, Pair

SERVER_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    return Authority(folder, "stranger")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server", ("127.0.0.1", "db1.example", "*.wild.example"))


def loaded(**flags: object) -> Loaded:
    return load({"data_dir": "/data", **flags}, {}, hostname="host")


def problems(**flags: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        loaded(**flags)
    assert not any("BEGIN" in problem for problem in refused.value.problems)
    return refused.value.problems


def client_port(pair: Pair, authority: Authority, **more: object) -> Mapping[str, object]:
    return {"tls_cert": pair.cert, "tls_key": pair.key, "tls_ca": authority.cert, **more}


def peer_port(pair: Pair, authority: Authority, **more: object) -> Mapping[str, object]:
    return {"peer_tls_cert": pair.cert, "peer_tls_key": pair.key, "peer_tls_ca": authority.cert, **more}


def test_good_files_do(pair: Pair, authority: Authority) -> None:
    config = loaded(**client_port(pair, authority, tls_client_ca=authority.cert), **peer_port(pair, authority)).config
    assert config.tls.on
    assert config.peer_tls.on
    assert config.tls.authority == authority.cert
    # With an authority of clients there is no need to name the servers'.
    only_client_ca = loaded(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.cert).config
    assert only_client_ca.tls.authority == authority.cert


def test_certificates_without_key_identifiers_will_do(tmp_path: Path) -> None:
    """Neither gRPC nor the check before the start is as strict as HTTP clients in Python 3.13 and later."""
    plain = Authority(tmp_path, "plain", strict=False)
    pair = plain.issue("server")
    assert loaded(**client_port(pair, plain, tls_client_ca=plain.cert), **peer_port(pair, plain)).config.tls.on


@pytest.mark.parametrize("advertise", ["db1.example:7400", "DB1.example:7400", "a.wild.example:7400"])
def test_names_and_wildcards_of_the_certificate(pair: Pair, authority: Authority, advertise: str) -> None:
    assert loaded(advertise=advertise, **client_port(pair, authority)).config.tls.on


def test_with_tls_other_machines_may_connect(pair: Pair, authority: Authority) -> None:
    flags = {"listen": "0.0.0.0:7400", "advertise": "db1.example:7400"}
    assert loaded(**flags, **client_port(pair, authority), **peer_port(pair, authority)).config.listen.is_wildcard
    (alone,) = problems(**flags, **client_port(pair, authority))
    assert "other machines could connect to peer_listen (0.0.0.0:7401), and nothing encrypts" in alone
    assert "give --peer-tls-cert, bind a loopback address, or accept that with --insecure" in alone
    assert loaded(**flags, **client_port(pair, authority), insecure=True).config.insecure


def test_settings_that_belong_together(pair: Pair, authority: Authority) -> None:
    assert problems(tls_cert=pair.cert, peer_tls_cert=pair.cert, peer_tls_key=pair.key) == (
        f"tls_cert ({pair.cert}) is of use only with --tls-key (flag --tls-cert)",
        "tls_ca is missing: this server also dials other members, so say which authority signed their certificates with --tls-ca",
        f"peer_tls_cert ({pair.cert}) is of use only with --peer-tls-ca (flag --peer-tls-cert, flag --peer-tls-key)",
    )
    assert problems(tls_client_ca=authority.cert, peer_tls_name="*.example") == (
        f"tls_client_ca ({authority.cert}) has no meaning without --tls-cert and --tls-key (flag --tls-client-ca)",
        "peer_tls_name (*.example) has no meaning without --peer-tls-cert (flag --peer-tls-name)",
        "peer_tls_name ('*.example') must be one DNS name, as it stands in the certificates: no pattern (flag --peer-tls-name)",
    )


def test_all_problems_of_all_files_at_once(folder: Path, authority: Authority, pair: Pair) -> None:
    other = authority.issue("other")
    expired = authority.issue("expired", to_days=-1)
    expired.key.chmod(0o644)
    garbage = folder / "garbage.pem"
    garbage.write_text("nothing of the kind")
    found = problems(
        tls_cert=pair.cert, tls_key=other.key, tls_ca=folder / "none.pem",
        peer_tls_cert=expired.cert, peer_tls_key=expired.key, peer_tls_ca=garbage,
    )  # fmt: skip
    assert [problem.rpartition(" (flag")[0].partition(" (flag")[0] for problem in found] == [
        f"tls_ca: {folder}/none.pem cannot be read: no such file or directory",
        f"tls_cert and tls_key: the key in {other.key} does not belong to the certificate in {pair.cert}",
        f"peer_tls_key: {expired.key} is a private key that others than its owner can reach (mode 0644): chmod 600 it",
        found[3].partition(" (flag")[0],
        f"peer_tls_ca: {garbage} holds no certificate of an authority in PEM form",
    ]
    assert f"peer_tls_cert: the certificate in {expired.cert} expired on 20" in found[3]


def test_files_are_looked_into_although_others_are_missing(authority: Authority, pair: Pair) -> None:
    other = authority.issue("another")
    missing, mismatch = problems(tls_cert=pair.cert, tls_key=other.key)
    assert missing.startswith("tls_ca is missing")
    assert "does not belong to the certificate" in mismatch


def test_files_that_are_something_else(folder: Path, authority: Authority, pair: Pair) -> None:
    early = authority.issue("early", from_days=1)
    assert "is not valid before 20" in problems(**client_port(early, authority))[0]
    (swapped,) = problems(**client_port(Pair(pair.key, pair.key), authority))
    assert swapped.startswith(f"tls_key: {pair.key} holds no certificate") or "holds no certificate in PEM form" in swapped
    locked = authority.issue("locked", password=b"secret")
    (encrypted,) = problems(**client_port(locked, authority))
    assert f"the key in {locked.key} is encrypted, and nobody can be asked for its passphrase" in encrypted
    (directory,) = problems(**client_port(Pair(folder, pair.key), authority))
    assert "cannot be read: is a directory" in directory
    huge = folder / "huge.pem"
    huge.write_bytes(b"x" * (2 << 20))
    assert "is no PEM file: it is larger than" in problems(**client_port(pair, authority, tls_client_ca=huge))[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_key_of_root_may_be_read_by_the_group_of_a_daemon(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = authority.issue("shared")
    shared.key.chmod(0o640)
    assert "mode 0640" in problems(**client_port(shared, authority))[0]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert loaded(**client_port(shared, authority)).config.tls.on
    shared.key.chmod(0o660)
    assert "mode 0660" in problems(**client_port(shared, authority))[0]


def test_what_only_a_handshake_finds(folder: Path, authority: Authority, stranger: Authority, pair: Pair) -> None:
    assert problems(**client_port(pair, stranger)) == (
        f"tls_cert ({pair.cert}) is signed by an authority that {stranger.cert} does not hold: clients that dial it will "
        "refuse it (flag --tls-cert, flag --tls-ca)",
    )
    (name,) = problems(advertise="db2.example:7400", **client_port(pair, authority))
    assert f"tls_cert ({pair.cert}) is valid for 127.0.0.1, db1.example, *.wild.example and not for db2.example" in name or (
        f"tls_cert ({pair.cert}) is valid for db1.example, *.wild.example, 127.0.0.1 and not for db2.example" in name
    )
    (host,) = problems(peer_advertise="127.0.0.9:7401", **peer_port(pair, authority))
    assert "and not for 127.0.0.9: peers will refuse it" in host
    assert loaded(peer_advertise="127.0.0.9:7401", **peer_port(pair, authority, peer_tls_name="db1.example")).config.peer_tls.on
    (shared,) = problems(**peer_port(pair, authority, peer_tls_name="peers.example"))
    assert "and not for peers.example: peers will refuse it" in shared
    one_sided = authority.issue("one-sided", purposes=SERVER_ONLY)
    (purpose,) = problems(**peer_port(one_sided, authority))
    assert "is not made for clients (its extended key usage lacks clientAuth): peers will refuse it" in purpose
    (as_client,) = problems(**client_port(pair, authority, tls_client_ca=stranger.cert))
    assert "is signed by another authority, and members that ask for a client's certificate are shown this one" in as_client
