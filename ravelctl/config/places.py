"""Where this user's files are. Tab reads it: it loads nothing that is not loaded anyway."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as type checkers know it: `typing` takes longer to load than Tab takes for the rest
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

CONFIG_VARIABLE: Final = "RAVELCTL_CONFIG"
"""Names another file of contexts."""


def context_path(environ: Mapping[str, str]) -> str:
    """Where the file of contexts is, or would be."""
    if named := environ.get(CONFIG_VARIABLE):
        return named
    return os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "ravelctl", "config.toml")


def cache_path(environ: Mapping[str, str], name: str) -> str:
    """Where the file `name` of the cache is, or would be."""
    return os.path.join(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ravelctl", name)
