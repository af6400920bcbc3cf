"""What `ravel_node gateway` is told: by a TOML file, RAVEL_* variables and flags, in rising strength."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from ravel_node import certificates
from ravel_node.config import ConfigError, LoggingConfig, Problem, TlsConfig, about, bound_problems
from ravel_node.forms import ADDRESS, ADDRESSES, BOOLEAN, MIB, NUMBER, PATH, SIZE, Address
from ravel_node.settings import Setting, described, read_file
from ravelctl.client import TlsOptions

DEFAULT_LISTEN: Final = Address("127.0.0.1", 8080)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Everything that a gateway is told. Raises ConfigError naming every problem."""

    admin: tuple[Address, ...] = field(
        default=(), metadata=about(ADDRESSES, "client addresses of some admin servers; may be repeated")
    )
    listen: Address = field(default=DEFAULT_LISTEN, metadata=about(ADDRESS, "the address for HTTP"))
    tls_cert: Path | None = field(
        default=None, metadata=about(PATH, "the certificate (PEM) shown to HTTP clients; with it the port speaks HTTPS only")
    )
    tls_key: Path | None = field(default=None, metadata=about(PATH, "its private key, which only its owner may read"))
    tls_client_ca: Path | None = field(
        default=None, metadata=about(PATH, "the authority of HTTP clients; with it each one must show a certificate")
    )
    cluster_ca: Path | None = field(
        default=None,
        metadata=about(PATH, "the authority of the client ports of admins and replicas (default: they speak no TLS)"),
    )
    cluster_cert: Path | None = field(default=None, metadata=about(PATH, "the certificate shown to them, where they ask for one"))
    cluster_key: Path | None = field(default=None, metadata=about(PATH, "its private key"))
    insecure: bool = field(
        default=False, metadata=about(BOOLEAN, "allow other machines to connect without TLS: nothing is encrypted")
    )
    timeout_ms: int = field(
        default=5_000, metadata=about(NUMBER, "how long a request may wait for a cluster, in milliseconds", low=10, high=600_000)
    )
    body_bytes_max: int = field(default=4 * MIB, metadata=about(SIZE, "the largest body", low=1, high=64 * MIB))
    requests_max: int = field(
        default=1_024, metadata=about(NUMBER, "requests that are served at once; one more gets 503", low=1, high=65_536)
    )
    access_log: bool = field(default=False, metadata=about(BOOLEAN, "log every request, with the key in its path"))
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if found := list(self.problems()):
            raise ConfigError(found)

    @property
    def cluster_tls(self) -> TlsOptions | None:
        """How admins and replicas are dialled."""
        return TlsOptions(self.cluster_ca, self.cluster_cert, self.cluster_key) if self.cluster_ca is not None else None

    def problems(self) -> Iterator[Problem]:
        """Every reason why these settings cannot work."""
        for part in (self, self.logging):
            yield from bound_problems(part)
        if not self.admin:
            yield Problem(("admin",), "admin is missing: name the client addresses of some admin servers with --admin")
        for one, other in (
            ("tls_cert", "tls_key"),
            ("tls_key", "tls_cert"),
            ("tls_client_ca", "tls_cert"),
            ("cluster_cert", "cluster_key"),
            ("cluster_key", "cluster_cert"),
            ("cluster_cert", "cluster_ca"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is None:
                flag = "--" + other.replace("_", "-")
                yield Problem((one, other), f"{one} ({getattr(self, one)}) is of use only with {flag}")
        if not (self.listen.is_loopback or self.tls_cert is not None or self.insecure):
            yield Problem(
                ("listen", "insecure"),
                f"other machines could connect to listen ({self.listen}), and nothing encrypts or authenticates them: "
                "give --tls-cert, bind a loopback address, or accept that with --insecure",
            )
        shown = TlsConfig(tls_cert=self.tls_cert, tls_key=self.tls_key, tls_client_ca=self.tls_client_ca)
        yield from certificates.client_problems(shown, None)


GATEWAY_SETTINGS: Final[dict[str, Setting]] = {
    one.name: Setting(section, one.name, one.metadata["form"], one.metadata["help"], one.metadata["words"], one.default)
    for section, part in (("", GatewayConfig), ("logging", LoggingConfig))
    for one in fields(part)
    if "form" in one.metadata
}
"""Every setting by its name, in the order in which people are shown them."""


@dataclass(frozen=True, slots=True)
class LoadedGateway:
    """A configuration and where each of its values came from, by setting name."""

    config: GatewayConfig
    origins: Mapping[str, str]

    def describe(self) -> str:
        """The full effective configuration as a file that would give it, each value with its origin."""
        return described(self.config, GATEWAY_SETTINGS, self.origins)


def load_gateway(flags: Mapping[str, object], environ: Mapping[str, str]) -> LoadedGateway:
    """Join file, variables and flags, in rising strength, and check the whole. Raises ConfigError with everything that is wrong.

    `config` of the flags, or the variable RAVEL_CONFIG, names the file.
    """
    raw: dict[str, tuple[object, str]] = {}
    refusals: list[str] = []
    if path := flags.get("config") or environ.get("RAVEL_CONFIG"):
        raw, refusals = read_file(Path(str(path)), GATEWAY_SETTINGS)
    found = [Problem((), refusal) for refusal in refusals]
    values: dict[str, Any] = {}
    for name, setting in GATEWAY_SETTINGS.items():
        if environ.get(setting.variable):
            raw[name] = (environ[setting.variable], f"variable {setting.variable}")
        if flags.get(name) not in (None, ()):
            raw[name] = (flags[name], f"flag {setting.flag}")
        if name not in raw:
            continue
        value, origin = raw[name]
        try:
            values[name] = setting.form.parse(value)
        except ValueError as error:
            found.append(Problem((name,), f"{name}: {error} ({origin})"))
    logging = {one.name: values.pop(one.name) for one in fields(LoggingConfig) if one.name in values}
    refused = {name for problem in found for name in problem.names}
    try:
        config = GatewayConfig(**values, logging=LoggingConfig(**logging))
    except ConfigError as error:
        # What rests on a setting that could not be read is not judged.
        found += [problem for problem in error.found if not refused.intersection(problem.names)]
    if found:
        raise ConfigError(found)
    return LoadedGateway(config, {name: raw[name][1] if name in raw else "default" for name in GATEWAY_SETTINGS})
