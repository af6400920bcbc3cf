"""The page that `ravelctl help` shows: the commands by what an operator wants to do, then the options, examples and exit codes.

Loaded only where help is asked for. The names stand here for the whole tree; those that the tree does not have are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Make a cluster, and change who is in it": ("bootstrap", "join", "leave", "member", "leader", "settings"),
    "See how it does": ("status", "health", "doctor", "top", "events", "log", "store", "verify"),
    "Read and write keys": ("kv", "bench"),
    "Keep the data, and get it back": ("snapshot", "recover", "record"),
    "Many clusters": ("admin",),
    "Try it out": ("playground",),
    "ravelctl itself": ("context", "config", "completion", "version", "help"),
}

_ABOUT: Final = """\
ravelctl operates clusters of ravel, a replicated key-value store that goes on while a majority of its replicas lives. It asks \
the daemons over the network: one address of a cluster is enough, the other members are found from it.\
"""

_EXAMPLES: Final = (
    ("ravelctl playground up", "a real cluster on this machine"),
    ("ravelctl bootstrap 10.0.0.1 10.0.0.2 10.0.0.3", "make three blank daemons one"),
    ("ravelctl context add prod -e 10.0.0.1,10.0.0.2", "from now on these are meant"),
    ("ravelctl status --watch", "how it does, again and again"),
    ("ravelctl top", "the same as a live screen"),
    ("ravelctl member remove n3 --dry-run", "would the quorum bear it?"),
)

_EXITS: Final = (
    (" 0  done", "  6  outcome unknown: look before repeating"),
    (" 1  failed", "  7  degraded (status, health)"),
    (" 2  wrong usage", "  8  damaged data"),
    (" 3  unreachable", "  9  not allowed"),
    (" 4  no leader or no quorum", "124  the --timeout of a wait ran out"),
    (" 5  refused, nothing changed", "130  interrupted"),
)


def write_about(formatter: click.HelpFormatter) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(_ABOUT)


def write_commands(formatter: click.HelpFormatter, shorts: Mapping[str, str]) -> None:
    """Every command of `shorts` once, in its section; the column of helps is the same in all."""
    widest = max(map(len, shorts))
    placed = {name for names in SECTIONS.values() for name in names}
    sections = {**SECTIONS, "Further commands": tuple(name for name in shorts if name not in placed)}
    for title, names in sections.items():
        if rows := [(name.ljust(widest), shorts[name]) for name in names if name in shorts]:
            with formatter.section(title):
                formatter.write_dl(rows)


def write_end(formatter: click.HelpFormatter) -> None:
    with formatter.section("Where a setting comes from"):
        formatter.write_text("A flag beats its RAVELCTL_* variable, which beats the context, which beats the default.")
        formatter.write_text("`ravelctl config show --show-origin` tells which it was.")
    with formatter.section("Examples"):
        formatter.write_dl(_EXAMPLES, col_max=50)
    with formatter.section("Exit codes"):
        formatter.write_dl(_EXITS)
    formatter.write_paragraph()
    formatter.write_text("`ravelctl help COMMAND` tells more about one command, `docs/operations.md` about all of this.")
