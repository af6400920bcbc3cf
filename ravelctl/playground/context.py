"""The contexts that a playground leaves behind while it is up, so that the next command finds it without being told where.

One for the cluster, or for the admin group; then each of its clusters has one of its own too, `playground-c1`. They belong to
the playground by the cluster's id, not by name: two playgrounds can be up, and a context of the operator's that happens to have
the name is never touched.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

from ravelctl.config import contexts
from ravelctl.config.places import context_path
from ravelctl.playground.processes import Playground

NAME: Final = "playground"


def keep(ground: Playground) -> tuple[str, bool]:
    """Keep where it is under a name of its own, and make that the current context if there is none.

    Returns the name, and whether it is current. Raises CommandError for a file that is broken or cannot be written.
    """
    name, current = _keep(ground.cluster_id, NAME, ground.endpoints, may_be_current=True)
    for cluster, cluster_id in ground.cluster_ids.items():
        _keep(cluster_id, f"{NAME}-{cluster}", tuple(replica.listen for replica in ground.of(cluster)), may_be_current=False)
    return name, current


def _keep(cluster_id: str, wanted: str, endpoints: tuple[str, ...], *, may_be_current: bool) -> tuple[str, bool]:
    file = contexts.load(Path(context_path(os.environ)))
    name = _name_of(file, cluster_id) or _free_name(file, wanted)
    current = file.current == name or (may_be_current and not file.current)
    text = contexts.add(file, name, {"endpoints": list(endpoints), "cluster": cluster_id}, use=current)
    if text != file.text:
        contexts.save(file.path, text)
    return name, current


def forget(ground: Playground) -> tuple[str, ...]:
    """Remove its contexts. Returns the names they had. Raises CommandError as `keep`."""
    gone = []
    for cluster_id in (ground.cluster_id, *ground.cluster_ids.values()):
        file = contexts.load(Path(context_path(os.environ)))
        if name := _name_of(file, cluster_id):
            contexts.save(file.path, contexts.remove(file, name))
            gone.append(name)
    return tuple(gone)


def _name_of(file: contexts.ContextFile, cluster_id: str) -> str:
    """The context of this very cluster that a playground has made; empty: there is none."""
    ours = (name for name, context in file.contexts.items() if context.values.get("cluster_id") == cluster_id)
    return next((name for name in ours if name.startswith(NAME)), "") if cluster_id else ""


def _free_name(file: contexts.ContextFile, wanted: str) -> str:
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in file.contexts)
