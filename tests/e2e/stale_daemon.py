"""A daemon that answers every read from what it has applied, whether or not it leads: `python stale_daemon.py start ...`."""

from __future__ import annotations

from ravel_node.__main__ import main
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica


def always(replica: Replica, mode: ReadMode) -> bool:
    """In place of Replica.barrier_free."""
    replica.check_open()
    return True


if __name__ == "__main__":
    setattr(Replica, "barrier_free", always)  # noqa: B010 - a plain assignment is no method to the type checker
    main()
