"""What holds for every command: where the cluster is, how long to wait, how to print.

Flag > `RAVELCTL_*` variable > context > default. Click reads the first two (`ravelctl.cli.command`), `contexts` the third; this
module knows the defaults, parses the words and holds the result. `settings` is the only place that fills gaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path  # the prompt does not wait for it

DEFAULT_PORT: Final = 7400
DEFAULT_ENDPOINT: Final = f"127.0.0.1:{DEFAULT_PORT}"
CALL_TIMEOUT_S: Final = 5.0
"""How long one answer may take where --timeout says nothing."""
WAIT_TIMEOUT_S: Final = 60.0
"""How long a command waits for a cluster to get somewhere (a join, a promotion) where --timeout says nothing."""
TRANSFER_TIMEOUT_S: Final = 3600.0
"""The same for the download of a snapshot."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

# Words: compiled where one is read, and most command lines have none.
_DURATION: Final = r"(\d+(?:\.\d+)?)(ms|s|m|h)?"
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ENDPOINT: Final = r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\],]+)(?::(\d{1,5}))?"


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Consistency(StrEnum):
    LINEARIZABLE = "linearizable"
    QUORUM = "quorum"
    STALE = "stale"


class Color(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved for one run. `timeout_s` is None where nobody has said anything: each command then has its own."""

    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    timeout_s: float | None = None
    output: Output = Output.TABLE
    consistency: Consistency = Consistency.LINEARIZABLE
    dry_run: bool = False
    yes: bool = False
    quiet: bool = False
    verbose: bool = False
    color: Color = Color.AUTO
    endpoints_given: bool = False  # by a flag, a variable or a context, not by default
    cacert: Path | None = None  # of the authority that signed the daemons' certificates; without it nothing is encrypted
    tls_cert: Path | None = None  # what daemons are shown that ask for a certificate
    tls_key: Path | None = None
    context: str = ""  # where the gaps were filled from
    cluster_id: str = ""  # the one cluster that is meant; empty: whichever answers

    @property
    def call_timeout_s(self) -> float:
        """For one answer."""
        return CALL_TIMEOUT_S if self.timeout_s is None else self.timeout_s

    def wait_timeout_s(self, default: float = WAIT_TIMEOUT_S) -> float:
        """For a state that is waited for."""
        return default if self.timeout_s is None else self.timeout_s


def settings(given: Mapping[str, Any], environ: Mapping[str, str], context: Mapping[str, Any] = NOTHING) -> Settings:
    """Defaults, overlaid with a context's values, then with what flags and variables gave: by the names of the fields."""
    defaults = {"color": Color.NEVER} if environ.get("NO_COLOR") else {}
    # The id belongs to the context's own addresses: whoever names others means what is there.
    pinned = {} if "endpoints" not in given else {"cluster_id": ""}
    endpoints_given = "endpoints" in given or "endpoints" in context
    return Settings(**{**context, **defaults, **pinned, **given}, endpoints_given=endpoints_given)


def duration_s(text: str) -> float:
    """Seconds of `500ms`, `2s`, `1.5m`, `1h` or a bare number of seconds. Raises ValueError for anything else, and for zero."""
    match = re.fullmatch(_DURATION, text.strip())
    if match is None or (seconds := float(match[1]) * _UNIT_S[match[2] or "s"]) <= 0:
        raise ValueError(f"{text!r} is not a duration above zero such as 500ms, 2s or 1m")
    return seconds


def moment_ms(text: str, now_s: float) -> int:
    """Milliseconds since 1970 of `2026-03-02T10:04:11Z`, or of so long before `now_s` as a duration says. Raises ValueError."""
    if re.fullmatch(_DURATION, text.strip()):
        return max(1, int((now_s - duration_s(text)) * 1000))
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.timestamp() <= 0:
        raise ValueError(f"{text!r} is neither a duration such as 10m nor a time with its zone such as 2026-03-02T10:04:11Z")
    return int(moment.timestamp() * 1000)


def endpoint(text: str) -> str:
    """HOST:PORT of `HOST`, `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError for anything else."""
    match = re.fullmatch(_ENDPOINT, text.strip())
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        hint = f" or [::1]:{DEFAULT_PORT}" if re.fullmatch(r"[\da-fA-F:.%]*:[\da-fA-F:.%]*:[\da-fA-F:.%]*", text) else ""
        raise ValueError(f"{text!r} is not an address such as 10.0.0.1:{DEFAULT_PORT}{hint}")
    return f"{match[1]}:{port}"


def endpoint_list(text: str) -> tuple[str, ...]:
    """Endpoints separated by commas or blanks, each once, in their order. Raises ValueError where there is none."""
    found = tuple(dict.fromkeys(endpoint(part) for part in re.split(r"[,\s]+", text) if part))
    if not found:
        raise ValueError(f"{text!r} names no address")
    return found
