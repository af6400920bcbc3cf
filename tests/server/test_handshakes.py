"""Failed handshakes become log lines; what else is printed to the descriptor is sorted out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from ravel_node.raft.types import ReplicaId
from ravel_node.replica.errors import WrongIdentityError
from ravel_node.server.binding import CallInfo
from ravel_node.server.handshakes import HandshakeLog, make_library_talk
from ravel_node.server.peer_certificates import PeerCertificates, covers
from ravel_node.transport.handshakes import handshake_failure

HEAD = "I1123 14:17:39.665942   16305 handshaker.cc:155] "
SSL = "Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
VERIFY = f"{SSL}CERTIFICATE_VERIFY_FAILED"
PLAIN = f"{SSL}WRONG_VERSION_NUMBER"


def failed(error: str, *, port: int = 7400, caller: str = "ipv4:10.0.0.9:44894", side: str = "server_credentials") -> str:
    """What gRPC 1.85 prints of one failed handshake, in its four lines."""
    addresses = f"grpc.internal.endpoint_local_address=ipv4:10.0.0.1:{port}, grpc.internal.endpoint_peer_address={caller}, "
    return (
        f"{HEAD}CallNextHandshakerLocked: error=UNKNOWN: {error}: OK\n"
        "=== Source Location Trace: ===\n"
        "src/core/util/status_helper.cc:68\n"
        f" shutdown=false index=2, args={{endpoint=0x1, args={{{addresses}grpc.internal.{side}=0x2}}, exit_early=0}}\n"
    )


def test_a_failed_handshake_is_told_with_its_caller_port_and_cause() -> None:
    handshakes = HandshakeLog({7400: "client", 7401: "peer"})
    with capture_logs() as logs:
        assert handshakes.take(failed(PLAIN)) == ""
        handshakes.take(failed(PLAIN, caller="ipv4:10.0.0.9:44895"))
        handshakes.take(failed(f"{VERIFY}: certificate has expired"))
        handshakes.take(failed(PLAIN, port=7401, caller="ipv6:%5B::1%5D:9"))
    told = [(line["port"], line["caller"], line["why"].partition(",")[0]) for line in logs]
    assert told == [
        ("client", "10.0.0.9", "it speaks plain text"),
        ("client", "10.0.0.9", "it speaks plain text"),
        ("client", "10.0.0.9", "its certificate has expired"),
        ("peer", "::1", "it speaks plain text"),
    ]
    assert logs[0] == logs[1], "the log counts what repeats, and so no field may differ from one attempt to the next"
    assert {line["log_level"] for line in logs} == {"warning"}


def test_a_caller_that_goes_away_early_is_no_warning() -> None:
    """A load balancer that only looks whether the port is open."""
    with capture_logs() as logs:
        HandshakeLog({}).take(failed("Handshake read failed (Socket closed)"))
    assert [(line["log_level"], line["port"]) for line in logs] == [("info", "7400")]


def test_what_this_daemon_dials_and_what_went_well_is_not_told_here() -> None:
    fine = f"{HEAD}CallNextHandshakerLocked: error=OK shutdown=false index=1, args={{grpc.internal.server_credentials=0x1}}\n"
    with capture_logs() as logs:
        assert HandshakeLog({}).take(fine + failed(VERIFY, side="channel_credentials")) == ""
    assert logs == []


def test_what_others_print_is_passed_on() -> None:
    chatter = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I1123 14:17:39.665942   16305 trace.cc:91] gRPC Tracers\n\n"
    )
    dying = "F1123 14:17:39.665942   16305 server.cc:1] Check failed: a == b\n"
    text = f"{chatter}Fatal Python error: Aborted\n{failed(PLAIN)}  File x\n{dying}"
    with capture_logs() as logs:
        assert HandshakeLog({}).take(text) == f"Fatal Python error: Aborted\n  File x\n{dying}"
    assert len(logs) == 1


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: connection refused", ""),
        (f"{VERIFY}: unable to get local issuer certificate: OK", "signed by an authority that this server does not trust"),
        ("Custom verification check failed with error: Hostname Verification Check failed.", "does not hold the name"),
        (f"{SSL}TLSV1_ALERT_UNKNOWN_CA: OK", "does not trust the authority"),
        (f"{SSL}BAD_PACKET_LENGTH: OK\n===", "it refuses this server's certificate"),
        (f"{SSL}SOMETHING_NEW: OK\n=== x: y", "the handshake failed (SOMETHING_NEW)"),
    ],
)
def test_words_for_what_grpc_says(details: str, words: str) -> None:
    assert words in handshake_failure(details)
    assert bool(handshake_failure(details)) == bool(words)


def test_the_library_talks_only_with_tls_and_only_to_us() -> None:
    plain: dict[str, str] = {}
    make_library_talk(plain, tls=False)
    assert plain == {"GRPC_VERBOSITY": "NONE"}
    safe: dict[str, str] = {}
    make_library_talk(safe, tls=True)
    assert safe["GRPC_TRACE"] == "handshaker"
    inherited = {"GRPC_VERBOSITY": "NONE"}
    make_library_talk(inherited, tls=True)
    assert inherited["GRPC_TRACE"] == "handshaker", "a silence that came with the environment is nobody's wish"
    wanted = {"GRPC_VERBOSITY": "DEBUG"}
    make_library_talk(wanted, tls=True)
    assert wanted == {"GRPC_VERBOSITY": "DEBUG"}, "whoever asks for gRPC's own words gets them"


def test_the_descriptor_is_caught_and_given_back() -> None:
    program = (
        "import asyncio, os, sys\n"
        "from ravel_node.log_output import stderr_output\n"
        "from ravel_node.server.handshakes import HandshakeLog, LibraryOutput\n"
        "async def main():\n"
        "    log = stderr_output()\n"
        "    caught = LibraryOutput(log)\n"
        "    passed = asyncio.Event()\n"
        "    text, log.text = log.text, lambda raw: (text(raw), b'passed on' in raw and passed.set())\n"
        "    caught.start(HandshakeLog({}))\n"
        "    os.write(2, b'I1123 14:17:39.665942   16305 x.cc:1] chatter\\npassed ')\n"
        "    await asyncio.sleep(0)\n"
        "    os.write(2, b'on\\n' + b'y' * 20_000_000)\n"  # far more than the pipe holds: it must not block
        "    print('said', file=sys.stderr)\n"
        "    await passed.wait()\n"
        "    caught.close()\n"
        "    assert log.flush(60.0)\n"
        "    os.write(2, b'afterwards\\n')\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("y")]
    assert lines == ["said", "passed on", "afterwards"]


@pytest.mark.parametrize(
    ("names", "host", "valid"),
    [
        (["10.0.0.1"], "10.0.0.1", True),
        (["0:0:0:0:0:0:0:1"], "::1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        (["*"], "10.0.0.1", False),
        (["DB1.example"], "db1.EXAMPLE.", True),
        (["*.example"], "db1.example", True),
        (["*.example"], "a.b.example", False),
        (["*.example"], "example", False),
        (["*."], "localhost", False),
        (["*"], "localhost", False),
        ([], "localhost", False),
        (["a"], "", False),
    ],
)
def test_names_that_a_certificate_is_valid_for(names: list[str], host: str, valid: bool) -> None:
    assert covers(names, host) is valid


def test_a_peer_without_a_certificate_is_refused_and_told_alike_each_time() -> None:
    certificates = PeerCertificates(None)
    certificates.check(ReplicaId(2), "[::1]:7401", CallInfo("ipv6:%5B::1%5D:9", ("::1",)))
    with capture_logs() as logs:
        for info in (CallInfo("ipv4:10.0.0.9:44894"), CallInfo("ipv4:10.0.0.9:44895", ()), None):
            with pytest.raises(WrongIdentityError, match="valid for no name and not for ::1"):
                certificates.check(ReplicaId(2), "[::1]:7401", info)
    assert [(line["event"], line["caller"]) for line in logs] == [
        ("server.peer_refused", "ipv4:10.0.0.9"),
        ("server.peer_refused", "ipv4:10.0.0.9"),
        ("server.peer_refused", ""),
    ]
    assert logs[0] == logs[1], "the port of the caller is another one each time"
