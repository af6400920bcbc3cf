"""A daemon as it was before checksum entries: `python older_daemon.py start ...`, as `python -m ravel_node start ...`.

It knows the kinds and the layout of format 1, says so in its member record, and calls itself version 0.0.9.
"""

from __future__ import annotations

import ravel_node
from ravel_node.machine import envelope


def grow_older() -> None:
    """Before anything else of the daemon is loaded: its modules copy these names."""
    ravel_node.__version__ = "0.0.9"
    envelope.FORMAT = 1  # type: ignore[misc]
    envelope._KNOWN_KINDS = frozenset(range(1, 9))  # type: ignore[misc]
    envelope._HEAD_BYTES = {envelope.PLAIN: 1}  # type: ignore[misc]


if __name__ == "__main__":
    grow_older()
    from ravel_node.__main__ import main

    main()
