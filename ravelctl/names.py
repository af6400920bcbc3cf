"""What Tab offers beside commands: names of contexts, and names and addresses of replicas that commands have met.

Tab never dials. Commands that have seen a cluster leave its members here; a missing or damaged file offers nothing, and a file
that cannot be written is no error. One line a cluster, the newest first: how it was reached, its names, its addresses, with tabs
between.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ravelctl.config import context_path

if TYPE_CHECKING:
    from ravelctl.app import App
    from ravelctl.client.errors import RavelError
    from ravelpb.v1.cluster_pb2 import StatusResponse

CLUSTERS_MAX: Final = 32
MEMBERS_MAX: Final = 64
FILE_BYTES_MAX: Final = 1 << 18
_HEADER: Final = re.compile(r"^\s*\[\s*contexts\s*\.\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*\]", re.MULTILINE)


def cache_path() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ravelctl", "members")


def context_names() -> list[str]:
    """In the order of the file, which is not parsed: that would take longer than Tab may."""
    return _HEADER.findall(_text(context_path(os.environ)))


def replica_names(app: App) -> list[str]:
    """Of the cluster that the line names so far; where it was never seen, of all."""
    return _known(app, 1)


def addresses(app: App) -> list[str]:
    return _known(app, 2)


def _known(app: App, column: int) -> list[str]:
    lines = [line for line in _lines() if len(line) == 3]
    key = _key(app)
    mine = [line for line in lines if line[0] == key]
    return list(dict.fromkeys(name for line in (mine or lines) for name in line[column].split(" ") if name))


def _key(app: App) -> str:
    """How the cluster is reached, without reading the file of contexts."""
    if context := app.given.get("context"):
        return f"context {context}"
    return f"endpoints {' '.join(app.given['endpoints'])}" if "endpoints" in app.given else ""


def remember(app: App, answers: Iterable[StatusResponse | RavelError]) -> None:
    """Keep the members that these answers name, if there are any."""
    members = [member.server for status in answers for member in getattr(status, "members", ())][:MEMBERS_MAX]
    names = dict.fromkeys(server.name for server in members)
    found = dict.fromkeys(server.addresses.listen for server in members)
    if not names:
        return
    line = [_key(app), " ".join(names), " ".join(found)]
    before = _lines()
    if line in before[:1]:
        return
    after = [line, *(other for other in before if other[0] != line[0])][:CLUSTERS_MAX]
    path = cache_path()
    beside = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as stream:
            stream.writelines("\t".join(parts) + "\n" for parts in after)
        os.replace(beside, path)
    except OSError:
        return  # Tab will have less to offer


def _lines() -> list[list[str]]:
    return [line.split("\t") for line in _text(cache_path()).splitlines()]


def _text(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(FILE_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
