"""The forms that a setting's value can have, as people write them: addresses, sizes, numbers, words.

Each parser takes what a file, a variable or a flag holds and raises ValueError with a sentence that quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

PORT_MAX: Final = 65_535

_SIZE_UNITS: Final = {"B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name, or an address without brackets) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, raw: object) -> Address:
        """Read `host:port` or `[ipv6]:port`. Raises ValueError saying what is wrong with it."""
        if not isinstance(raw, str):
            raise ValueError(f"{raw!r} is not an address; write it as host:port")
        host, colon, port_text = raw.strip().rpartition(":")
        if not colon:
            raise ValueError(f"{raw!r} has no port; write it as host:port, for example 127.0.0.1:7400")
        if not host:
            raise ValueError(f"{raw!r} has no host; write 0.0.0.0:{port_text} to mean every interface")
        return cls(_parse_host(host, raw), _parse_port(port_text, raw))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. Names other than `localhost` are not looked up: they count as reachable."""
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every interface: good to bind, impossible to dial."""
        ip = _ip(self.host)
        return ip is not None and ip.is_unspecified

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parse_host(host: str, raw: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        if (ip := _ip(host[1:-1])) is None or ip.version != 6:
            raise ValueError(f"{raw!r} has no IPv6 address between its brackets")
        return host[1:-1]
    if ":" in host:
        raise ValueError(f"{raw!r} is ambiguous; write an IPv6 address in brackets, for example [::1]:7400")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{raw!r} names no host that could be looked up")
    if _ip(host) is None and re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"{raw!r} is no IPv4 address: four numbers of 0 to 255")
    return host


def _parse_port(text: str, raw: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{raw!r} has no port in digits after its last colon")
    port = int(text[:9])
    if port == 0:
        raise ValueError(f"{raw!r} has port 0, which means any free one; others must find this server again, so choose one")
    if port > PORT_MAX:
        raise ValueError(f"{raw!r} has port {text[:20]}; a port is 1 to {PORT_MAX}")
    return port


def parse_integer(raw: object) -> int:
    """A whole number, in digits. Bounds are checked with the whole tree."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9][0-9_]{0,18}", raw.strip()):
        return int(raw)
    raise ValueError(f"{raw!r} is not a whole number")


def parse_size(raw: object) -> int:
    """Bytes: a whole number, alone or with a unit of 1,024s."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    found = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", raw.strip()) if isinstance(raw, str) else None
    if found is None or (unit := _SIZE_UNITS.get((found[2] or "B").upper())) is None:
        raise ValueError(f"{raw!r} is not a size; write bytes, or a whole number of KiB, MiB, GiB or TiB, for example 8GiB")
    return int(found[1]) * unit


def format_size(size: int) -> str:
    """The shortest form that `parse_size` reads back as the same number."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _parse_boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and (word := raw.strip().lower()) in _WORDS:
        return _WORDS[word]
    raise ValueError(f"{raw!r} is neither true nor false")


def _parse_text(raw: object) -> str:
    if isinstance(raw, str):
        return raw
    raise ValueError(f"{raw!r} is not text")


def _parse_path(raw: object) -> Path:
    if isinstance(raw, (str, Path)) and str(raw) and "\0" not in str(raw):
        return Path(raw).expanduser()
    raise ValueError(f"{raw!r} is not a path")


def _parse_addresses(raw: object) -> tuple[Address, ...]:
    parts = [raw] if isinstance(raw, str) else raw
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"{raw!r} is not a list of addresses")
    split = [piece for part in parts for piece in (part.split(",") if isinstance(part, str) else [part])]
    return tuple(Address.parse(piece) for piece in split if piece != "")


class Form(NamedTuple):
    """One form of values: how it is read, how people see it, and the word that stands for it in help."""

    parse: Callable[[object], Any]
    show: Callable[[Any], str]
    metavar: str


NUMBER: Final = Form(parse_integer, str, "N")
SIZE: Final = Form(parse_size, format_size, "SIZE")
ADDRESS: Final = Form(Address.parse, str, "HOST:PORT")
ADDRESSES: Final = Form(_parse_addresses, lambda value: ",".join(map(str, value)), "HOST:PORT")
BOOLEAN: Final = Form(_parse_boolean, lambda value: "true" if value else "false", "")
TEXT: Final = Form(_parse_text, str, "TEXT")
PATH: Final = Form(_parse_path, str, "PATH")
