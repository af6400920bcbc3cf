"""A data directory that was made for a new cluster, and what its operator does next."""

from __future__ import annotations

from typing import Protocol

from ravelctl.cli.output import U64, View, count_text


class Founder(Protocol):
    """Who a daemon that is started there will be."""

    @property
    def cluster_id(self) -> str: ...

    @property
    def cluster_name(self) -> str: ...

    @property
    def replica_id(self) -> int: ...

    @property
    def name(self) -> str: ...


def founded_view(
    kind: str, target: str, identity: Founder, upto: int, term: int, index: int, revision: int, keys: int, *, admin: bool
) -> View:
    """Return what to show of a data directory that was made from a log up to `upto`, and what to do with it."""
    body = "\n".join(
        [
            f"cluster   {identity.cluster_name} {identity.cluster_id}, new",
            f"replica   {identity.name}, id {identity.replica_id}, in {target}",
            f"made of   the old log up to entry {upto}",
            f"begins at entry {index} of term {term}, revision {revision}: above all that the old cluster reported",
            f"contents  {count_text(keys, 'key')}",
            f"next: ravel_node {'admin' if admin else 'start'} --data-dir {target} --name {identity.name} --listen ADDRESS",
            "then, for each further daemon, with a data directory that is empty: ravelctl join ITS_ADDRESS --via ADDRESS",
        ]
    )
    return View(
        kind=kind,
        data={
            "data_dir": target,
            "cluster": identity.cluster_id,
            "cluster_name": identity.cluster_name,
            "replica_id": U64(identity.replica_id),
            "name": identity.name,
            "upto_index": U64(upto),
            "term": U64(term),
            "index": U64(index),
            "revision": U64(revision),
            "keys": U64(keys),
        },
        body=body,
        names=(target,),
    )
