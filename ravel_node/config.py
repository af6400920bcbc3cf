"""The configuration of a daemon: one frozen tree, checked whole.

Each setting is declared once, as a field of one of the parts below, with its meaning, its form and its bounds. Sizes are bytes.
How a tree is put together from file, environment and flags stands in `ravel_node.settings`. Nothing below the daemon reads the
environment: it is given its part of this tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple

from ravel_node.forms import (
    ADDRESS,
    ADDRESSES,
    BOOLEAN,
    GIB,
    KIB,
    MIB,
    NUMBER,
    PATH,
    SIZE,
    TEXT,
    TIB,
    Address,
    Form,
    format_size,
)
from ravel_node.machine.limits import REQUEST_BYTES_CEILING

VALUE_ROOM_BYTES: Final = 4 * KIB
"""What a request must hold beside its value: the key and what encloses both."""

_TLS_FLAG: Final = {"listen": "--tls-cert", "peer_listen": "--peer-tls-cert", "http": "--tls-cert"}
"""What makes an address fit for other machines."""

ELECTION_MS_MAX: Final = 60_000

NAME_CHARACTERS_MAX: Final = 63
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARACTERS_MAX - 1}}}")
_NAME_RULE: Final = f"1 to {NAME_CHARACTERS_MAX} of a-z, 0-9, '-', '_', '.', first a letter or digit"


class Problem(NamedTuple):
    """One reason why settings cannot work, and the names of the settings it rests on."""

    names: tuple[str, ...]
    message: str


class ConfigError(Exception):
    """A configuration that cannot work. `problems` holds every reason found, each one sentence with its values."""

    def __init__(self, found: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in found))
        self.found = tuple(found)

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(problem.message for problem in self.found)


def about(
    form: Form, help_text: str, *, low: int | None = None, high: int | None = None, words: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The metadata of a setting's field. Bounds are inclusive; `words` are the only texts allowed."""
    return {"form": form, "help": help_text, "low": low, "high": high, "words": words}


# --- the tree


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingConfig:
    """How fast a cluster notices and elects. All members should have the same."""

    tick_ms: int = field(
        default=50, metadata=about(NUMBER, "the unit of time of the cluster, in milliseconds", low=5, high=1_000)
    )
    heartbeat_ticks: int = field(default=2, metadata=about(NUMBER, "a leader says that it lives every N ticks", low=1, high=100))
    election_ticks: int = field(
        default=16, metadata=about(NUMBER, "a follower campaigns after N to 2N-1 ticks without a leader", low=3, high=1_000)
    )

    @property
    def tick_s(self) -> float:
        return self.tick_ms / 1_000

    @property
    def election_timeout_s(self) -> float:
        """The shortest time after which a follower campaigns."""
        return self.election_ticks * self.tick_s

    def problems(self) -> Iterator[Problem]:
        heartbeat, election = self.heartbeat_ticks, self.election_ticks
        if election < 3 * heartbeat:
            yield Problem(
                ("heartbeat_ticks", "election_ticks"),
                f"election_ticks ({election}) must be at least three times heartbeat_ticks ({heartbeat}), "
                "or one lost heartbeat starts an election",
            )
        if (timeout_ms := election * self.tick_ms) > ELECTION_MS_MAX:
            yield Problem(
                ("tick_ms", "election_ticks"),
                f"tick_ms ({self.tick_ms}) times election_ticks ({election}) is {timeout_ms} ms: "
                f"a cluster without a leader must notice within {ELECTION_MS_MAX} ms",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one client, and all of them, may ask for."""

    value_bytes_max: int = field(default=MIB, metadata=about(SIZE, "the largest value", low=1, high=32 * MIB))
    request_bytes_max: int = field(
        default=4 * MIB, metadata=about(SIZE, "the largest request", low=8 * KIB, high=REQUEST_BYTES_CEILING)
    )
    proposals_waiting_max: int = field(
        default=16_384,
        metadata=about(NUMBER, "commands that may wait to be appended; more are refused as BUSY", low=1, high=1 << 20),
    )
    proposals_waiting_bytes_max: int = field(default=64 * MIB, metadata=about(SIZE, "and their size", low=64 * KIB, high=4 * GIB))
    session_requests_max: int = field(
        default=64, metadata=about(NUMBER, "requests that may wait on one Session stream", low=1, high=4_096)
    )
    watches_max: int = field(default=1_024, metadata=about(NUMBER, "streams of Watch served at once", low=1, high=1 << 20))
    streams_max: int = field(default=4_096, metadata=about(NUMBER, "calls and streams served at once", low=1, high=1 << 20))
    connections_max: int = field(default=4_096, metadata=about(NUMBER, "client connections open at once", low=1, high=1 << 20))

    def problems(self) -> Iterator[Problem]:
        needed = self.value_bytes_max + VALUE_ROOM_BYTES
        if self.request_bytes_max < needed:
            yield Problem(
                ("value_bytes_max", "request_bytes_max"),
                f"request_bytes_max ({format_size(self.request_bytes_max)}) must hold a value of value_bytes_max "
                f"({format_size(self.value_bytes_max)}) and its key: at least {format_size(needed)}",
            )
        if self.proposals_waiting_bytes_max < self.request_bytes_max:
            yield Problem(
                ("request_bytes_max", "proposals_waiting_bytes_max"),
                f"proposals_waiting_bytes_max ({format_size(self.proposals_waiting_bytes_max)}) must not be below "
                f"request_bytes_max ({format_size(self.request_bytes_max)})",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How much a replica keeps, on disk and in memory."""

    db_size_max: int = field(
        default=8 * GIB,
        metadata=about(SIZE, "the quota: above it writes are refused, reads and deletes go on", low=MIB, high=16 * TIB),
    )
    segment_bytes_max: int = field(
        default=4 * MIB, metadata=about(SIZE, "applied commands that are flushed to disk as one", low=4 * KIB, high=256 * MIB)
    )
    unflushed_bytes_max: int = field(
        default=64 * MIB,
        metadata=about(SIZE, "applied and not yet flushed; above it proposals are refused as BUSY", low=8 * KIB, high=4 * GIB),
    )
    log_retain_entries: int = field(
        default=10_000,
        metadata=about(NUMBER, "entries kept behind what is flushed, for followers that were away", low=0, high=1 << 40),
    )
    log_retain_bytes_max: int = field(
        default=GIB, metadata=about(SIZE, "the most of the log that is kept, whoever still needs it", low=MIB, high=16 * TIB)
    )
    snapshots_kept: int = field(default=3, metadata=about(NUMBER, "snapshot files kept", low=1, high=100))
    checksum_interval_s: int = field(
        default=3_600,
        metadata=about(
            NUMBER, "seconds between two comparisons of the replicas' states; 0: only when asked", low=0, high=30 * 86_400
        ),
    )

    def problems(self) -> Iterator[Problem]:
        if self.unflushed_bytes_max < 2 * self.segment_bytes_max:
            yield Problem(
                ("segment_bytes_max", "unflushed_bytes_max"),
                f"unflushed_bytes_max ({format_size(self.unflushed_bytes_max)}) must hold two segments of segment_bytes_max "
                f"({format_size(self.segment_bytes_max)}): one that is flushed and one that fills",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """How much is done at once."""

    batch_commands_max: int = field(
        default=1_024, metadata=about(NUMBER, "commands packed into one log entry", low=1, high=4_096)
    )
    batch_bytes_max: int = field(default=256 * KIB, metadata=about(SIZE, "and their size", low=KIB, high=4 * MIB))
    apply_commands_max: int = field(
        default=512, metadata=about(NUMBER, "commands applied in one turn of the loop", low=1, high=65_536)
    )

    def problems(self) -> Iterator[Problem]:
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """What is logged, and how."""

    log_format: str = field(
        default="auto",
        metadata=about(TEXT, "json, text, or auto: text on a terminal, else json", words=("auto", "json", "text")),
    )
    log_level: str = field(
        default="info", metadata=about(TEXT, "the least that is logged", words=("debug", "info", "warning", "error"))
    )

    def problems(self) -> Iterator[Problem]:
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """TLS on the client port, and where this server is a client of other servers (to join, to tell new addresses).

    Files are named here; what is in them is checked where the configuration is loaded (`ravel_node.certificates`).
    """

    tls_cert: Path | None = field(
        default=None, metadata=about(PATH, "the certificate (PEM) shown to clients; with it the client port speaks TLS only")
    )
    tls_key: Path | None = field(default=None, metadata=about(PATH, "its private key, which only its owner may read"))
    tls_client_ca: Path | None = field(
        default=None, metadata=about(PATH, "the authority of clients; with it each client must show a certificate")
    )
    tls_ca: Path | None = field(
        default=None,
        metadata=about(PATH, "the authority that signed the members' --tls-cert, to dial them (default: --tls-client-ca)"),
    )

    @property
    def on(self) -> bool:
        return self.tls_cert is not None

    @property
    def authority(self) -> Path | None:
        """Whose signature makes this server trust another one's client port."""
        return self.tls_ca or self.tls_client_ca

    def problems(self) -> Iterator[Problem]:
        yield from _together(self, "tls_cert", "tls_key")
        if not self.on:
            for name in ("tls_client_ca", "tls_ca"):
                if getattr(self, name) is not None:
                    yield Problem((name,), f"{name} ({getattr(self, name)}) has no meaning without --tls-cert and --tls-key")
        elif self.authority is None:
            yield Problem(
                ("tls_ca",),
                "tls_ca is missing: this server also dials other members, so say which authority signed their certificates "
                "with --tls-ca",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTlsConfig:
    """TLS between replicas: always mutual, with an authority that signs for peers and nobody else."""

    peer_tls_cert: Path | None = field(
        default=None, metadata=about(PATH, "the certificate (PEM) shown to other replicas, as server and as client")
    )
    peer_tls_key: Path | None = field(default=None, metadata=about(PATH, "its private key, which only its owner may read"))
    peer_tls_ca: Path | None = field(
        default=None, metadata=about(PATH, "the authority of peers: whoever it signed for may send Raft messages")
    )
    peer_tls_name: str | None = field(
        default=None,
        metadata=about(TEXT, "a name in every peer's certificate, checked instead of the host of its peer address"),
    )

    @property
    def on(self) -> bool:
        return self.peer_tls_cert is not None

    def problems(self) -> Iterator[Problem]:
        yield from _together(self, "peer_tls_cert", "peer_tls_key", "peer_tls_ca")
        if self.peer_tls_name is not None and not self.on:
            why = f"peer_tls_name ({self.peer_tls_name}) has no meaning without --peer-tls-cert"
            yield Problem(("peer_tls_name",), why)
        if self.peer_tls_name is not None and not _HOST_NAME.fullmatch(self.peer_tls_name):
            why = f"peer_tls_name ({self.peer_tls_name!r}) must be one DNS name, as it stands in the certificates: no pattern"
            yield Problem(("peer_tls_name",), why)


def _together(part: Any, *names: str) -> Iterator[Problem]:
    """Settings of which either all or none are given."""
    missing = [name for name in names if getattr(part, name) is None]
    if missing and len(missing) < len(names):
        given = next(name for name in names if name not in missing)
        flags = " and ".join("--" + name.replace("_", "-") for name in missing)
        yield Problem(names, f"{given} ({getattr(part, given)}) is of use only with {flags}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that a daemon is told. Raises ConfigError naming every problem.

    `load` fills in what follows from other settings: the name, the peer address and what is advertised.
    """

    data_dir: Path = field(metadata=about(PATH, "where this server keeps its data; made if it is not there"))
    name: str = field(metadata=about(TEXT, "this server's name in its cluster (default: from host name and port)"))
    listen: Address = field(metadata=about(ADDRESS, "the address for clients (default: 127.0.0.1:7400)"))
    peer_listen: Address = field(metadata=about(ADDRESS, "the address for other replicas (default: the port after --listen)"))
    advertise: Address = field(metadata=about(ADDRESS, "what clients dial (default: --listen)"))
    peer_advertise: Address = field(
        metadata=about(ADDRESS, "what other replicas dial (default: --advertise with the port of --peer-listen)")
    )
    metrics_listen: Address | None = field(
        default=None, metadata=about(ADDRESS, "the address for /metrics, /healthz and /readyz by HTTP (default: none)")
    )
    http: Address | None = field(
        default=None, metadata=about(ADDRESS, "the address for keys and values by HTTP, of an admin server (default: none)")
    )
    join: tuple[Address, ...] = field(
        default=(), metadata=about(ADDRESSES, "members of the cluster to join while this server is blank; may be repeated")
    )
    admin: tuple[Address, ...] = field(
        default=(),
        metadata=about(ADDRESSES, "admins that give this server its cluster, and are told how it stands; may be repeated"),
    )
    new_cluster: str | None = field(
        default=None,
        metadata=about(TEXT, "the cluster that a blank server asks the admin for; made if there is none of this name"),
    )
    insecure: bool = field(
        default=False, metadata=about(BOOLEAN, "allow other machines to connect to ports without TLS: nothing is encrypted")
    )
    timing: TimingConfig = field(default_factory=TimingConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    peer_tls: PeerTlsConfig = field(default_factory=PeerTlsConfig)

    def __post_init__(self) -> None:
        if found := list(self.problems()):
            raise ConfigError(found)

    def problems(self) -> Iterator[Problem]:
        """Every reason why these settings cannot work."""
        parts = (self.timing, self.limits, self.storage, self.batching, self.logging, self.tls, self.peer_tls)
        for part in (self, *parts):
            yield from bound_problems(part)
        for part in parts:
            yield from part.problems()
        if not _NAME.fullmatch(self.name):
            yield Problem(("name",), f"name ({self.name!r}) must be {_NAME_RULE}")
        yield from self._address_problems()
        yield from self._admin_problems()
        yield from self._exposure_problems()

    def _address_problems(self) -> Iterator[Problem]:
        bound = [("listen", self.listen), ("peer_listen", self.peer_listen)]
        bound += [(name, address) for name in ("metrics_listen", "http") if (address := getattr(self, name)) is not None]
        for (name, address), (other_name, other) in combinations(bound, 2):
            same_host = address.host == other.host or address.is_wildcard or other.is_wildcard
            if same_host and address.port == other.port:
                yield Problem((name, other_name), f"{name} ({address}) and {other_name} ({other}) must not share a port")
        if self.advertise.is_wildcard:
            why = f"advertise ({self.advertise}) means every interface, which nobody can dial: name one address with --advertise"
            yield Problem(("advertise",), why)
        if self.peer_advertise.is_wildcard and self.peer_advertise.host != self.advertise.host:
            why = f"peer_advertise ({self.peer_advertise}) means every interface, which nobody can dial: name one address"
            yield Problem(("peer_advertise",), why)
        if self.advertise == self.peer_advertise and self.listen.port != self.peer_listen.port:
            why = f"advertise ({self.advertise}) and peer_advertise ({self.peer_advertise}) must differ: they are two services"
            yield Problem(("advertise", "peer_advertise"), why)
        own = (self.listen, self.advertise, self.peer_listen, self.peer_advertise)
        for name, addresses, whom in (("join", self.join, "a member of the cluster"), ("admin", self.admin, "an admin server")):
            for address in addresses:
                if address in own:
                    why = f"{name} ({address}) is this server itself: name {whom}"
                    yield Problem((name, "listen", "advertise"), why)

    def _admin_problems(self) -> Iterator[Problem]:
        if self.admin and self.join:
            yield Problem(
                ("admin", "join"),
                f"admin ({ADDRESSES.show(self.admin)}) and join ({ADDRESSES.show(self.join)}) exclude each other: "
                "an admin says which cluster to join",
            )
        if self.new_cluster is None:
            return
        if not self.admin:
            why = f"new_cluster ({self.new_cluster}) has no meaning without --admin: an admin keeps the list of clusters"
            yield Problem(("new_cluster",), why)
        if not _NAME.fullmatch(self.new_cluster):
            yield Problem(("new_cluster",), f"new_cluster ({self.new_cluster!r}) must be {_NAME_RULE}")

    def _exposure_problems(self) -> Iterator[Problem]:
        bound = [("listen", self.listen, self.tls.on), ("peer_listen", self.peer_listen, self.peer_tls.on)]
        if self.http is not None:
            bound.append(("http", self.http, self.tls.on))
        open_ones = [(name, address) for name, address, encrypted in bound if not address.is_loopback and not encrypted]
        if open_ones and not self.insecure:
            named = " and ".join(f"{name} ({address})" for name, address in open_ones)
            yield Problem(
                ("insecure", *(name for name, _ in open_ones)),
                f"other machines could connect to {named}, and nothing encrypts or authenticates them: "
                f"give {' and '.join(dict.fromkeys(_TLS_FLAG[name] for name, _ in open_ones))}, bind a loopback address, "
                "or accept that with --insecure",
            )


def bound_problems(part: Any) -> Iterator[Problem]:
    """Values outside the bounds, or the words, that their fields declare."""
    for one in fields(part):
        value, low, high, words = getattr(part, one.name), *(one.metadata.get(key) for key in ("low", "high", "words"))
        if words and value not in words:
            yield Problem((one.name,), f"{one.name} ({value!r}) must be one of {', '.join(words)}")
        if low is not None and not low <= value <= high:
            show = one.metadata["form"].show
            yield Problem((one.name,), f"{one.name} ({show(value)}) must be {show(low)} to {show(high)}")
