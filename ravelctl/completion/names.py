"""What Tab offers beside commands: names of contexts, of replicas and their addresses, and of servers, that commands have met.

Tab never dials. Commands that have seen a cluster leave its members here, and those that have seen an admin group's list its
servers; a missing or damaged file offers nothing, and a file that cannot be written is no error. One line a cluster, the newest
first: how it was reached, then columns of names, or of addresses, with tabs between.

Tab waits for this module: it loads nothing at its top that is not loaded anyway.
"""

from __future__ import annotations

import os

from ravelctl.config.places import cache_path, context_path

TYPE_CHECKING = False  # as type checkers know it: `typing` takes longer to load than Tab takes for the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from ravelctl.cli.app import App
    from ravelctl.client.errors import RavelError
    from ravelpb.v1.admin_pb2 import DirectoryResponse
    from ravelpb.v1.cluster_pb2 import StatusResponse

CLUSTERS_MAX: Final = 32
MEMBERS_MAX: Final = 64
SERVERS_MAX: Final = 512
FILE_BYTES_MAX: Final = 1 << 18
MEMBERS: Final = "members"
SERVERS: Final = "servers"


def context_names() -> list[str]:
    """In the order of the file, which is not parsed: that would take longer than Tab may."""
    lines = (line.strip() for line in _text(context_path(os.environ)).splitlines())
    heads = (line[1:].partition("]")[0].partition(".") for line in lines if line.startswith("["))
    found = [name.strip().strip("\"'") for table, _, name in heads if table.strip() == "contexts"]
    return [name for name in found if name and "." not in name]


def replica_names(cluster: str) -> list[str]:
    """Of the cluster that is reached so (`reached`); where it was never seen, of all."""
    return _known(MEMBERS, cluster, 1)


def addresses(cluster: str) -> list[str]:
    return _known(MEMBERS, cluster, 2)


def server_names(cluster: str) -> list[str]:
    """Those that the admin group lists that is reached so; where it was never seen, those of all."""
    return _known(SERVERS, cluster, 1)


def reached(context: str, endpoints: Sequence[str]) -> str:
    """How a command line reaches its cluster, as the cache has it, without reading the file of contexts."""
    if context:
        return f"context {context}"
    return f"endpoints {' '.join(endpoints)}" if endpoints else ""


def remember(app: App, answers: Iterable[StatusResponse | RavelError]) -> None:
    """Keep the members that these answers name, if there are any."""
    members = [member.server for status in answers for member in getattr(status, "members", ())][:MEMBERS_MAX]
    _keep(app, MEMBERS, [[server.name for server in members], [server.addresses.listen for server in members]])


def remember_servers(app: App, directory: DirectoryResponse) -> None:
    """Keep the servers of an admin group's list, by the shortest words that name one: NAME, or CLUSTER/NAME."""
    servers = directory.servers[:SERVERS_MAX]
    clusters = {cluster.number: cluster.name for cluster in directory.clusters}
    names = [server.server.name for server in servers]
    twice = {name for name in names if names.count(name) > 1}
    words = [f"{clusters.get(s.cluster, '')}/{s.server.name}" if s.server.name in twice else s.server.name for s in servers]
    _keep(app, SERVERS, [words])


def _known(file: str, cluster: str, column: int) -> list[str]:
    lines = [line for line in _lines(file) if len(line) > column]
    mine = [line for line in lines if line[0] == cluster]
    return list(dict.fromkeys(name for line in (mine or lines) for name in line[column].split(" ") if name))


def _keep(app: App, file: str, columns: Sequence[Iterable[str]]) -> None:
    """Put a line about the cluster of this run before the others."""
    line = [reached(app.given.get("context", ""), app.given.get("endpoints", ()))]
    line += [" ".join(dict.fromkeys(column)) for column in columns]
    before = _lines(file)
    if not line[1] or line in before[:1]:
        return
    after = ["\t".join(parts) + "\n" for parts in [line, *(other for other in before if other[0] != line[0])][:CLUSTERS_MAX]]
    while sum(map(len, after)) > FILE_BYTES_MAX // 4 and len(after) > 1:  # no character takes more than four bytes
        after.pop()
    path = cache_path(os.environ, file)
    beside = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as stream:
            stream.writelines(after)
        os.replace(beside, path)
    except OSError:
        return  # Tab will have less to offer


def _lines(file: str) -> list[list[str]]:
    return [line.split("\t") for line in _text(cache_path(os.environ, file)).splitlines()]


def _text(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(FILE_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
