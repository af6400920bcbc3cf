"""The context that a playground leaves behind while it is up, so that the next command finds it without being told where.

It belongs to the playground by its cluster's id, not by its name: two playgrounds can be up, and a context of the operator's that
happens to have the name is never touched.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

from ravelctl import contexts
from ravelctl.config import context_path
from ravelctl.playground import Playground

NAME: Final = "playground"


def keep(ground: Playground) -> tuple[str, bool]:
    """Keep where it is under a name of its own, and make that the current context if there is none.

    Returns the name, and whether it is current. Raises CommandError for a file that is broken or cannot be written.
    """
    file = contexts.load(Path(context_path(os.environ)))
    name = _name_of(file, ground) or _free_name(file)
    current = file.current in ("", name)
    values = {"endpoints": list(ground.endpoints), "cluster": ground.cluster_id}
    text = contexts.add(file, name, values, use=current)
    if text != file.text:
        contexts.save(file.path, text)
    return name, current


def forget(ground: Playground) -> str:
    """Remove its context. Returns the name it had; empty: there was none. Raises CommandError as `keep`."""
    file = contexts.load(Path(context_path(os.environ)))
    if name := _name_of(file, ground):
        contexts.save(file.path, contexts.remove(file, name))
    return name


def _name_of(file: contexts.ContextFile, ground: Playground) -> str:
    """The context of this very cluster that a playground has made; empty: there is none."""
    ours = (name for name, context in file.contexts.items() if context.values.get("cluster_id") == ground.cluster_id)
    return next((name for name in ours if name.startswith(NAME)), "") if ground.cluster_id else ""


def _free_name(file: contexts.ContextFile) -> str:
    names = itertools.chain([NAME], (f"{NAME}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in file.contexts)
