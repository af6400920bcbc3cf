"""What the system says of a process."""

from __future__ import annotations

import os
from pathlib import Path


def anonymous_bytes(pid: int) -> int:
    """Memory of its own, without mapped files (RssAnon): what a store in LMDB does not share with the page cache."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise ProcessLookupError(f"process {pid} has no memory: it has ended")


def cpu_seconds(pid: int) -> float:
    """Processor time that it has used so far, its own and the system's for it."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
