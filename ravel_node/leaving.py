"""`ravel_node leave`: the server with this data directory leaves its cluster, whether its daemon runs or not.

Who it is stands in the directory, and so do the addresses of the admins that its daemon was started with last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ravel_node import credentials
from ravel_node.config import ServerConfig
from ravel_node.forms import Address
from ravel_node.storage import files
from ravel_node.storage.base import Identity, StoreError
from ravel_node.storage.directory import ADMINS
from ravel_node.storage.survey import DirectoryReader
from ravelctl.client import AdminClient, NotFoundError, RavelError
from ravelctl.client.services.leaving import leave_through_admin

LEAVE_S: Final = 60.0


class LeaveError(Exception):
    """It did not leave; the message says why, and what to do."""


def remember_admins(data_dir: Path, admins: Sequence[Address]) -> None:
    """Keep the addresses in the data directory, one a line. Raises OSError. Blocks."""
    files.write_file(data_dir / ADMINS, "".join(f"{address}\n" for address in admins).encode())


def recall_admins(data_dir: Path) -> list[str]:
    """The addresses that were kept; none where none were. Raises OSError. Blocks."""
    try:
        return (data_dir / ADMINS).read_text("ascii", errors="replace").split()
    except FileNotFoundError:
        return []


def leave(config: ServerConfig) -> str:
    """Take the server of `config.data_dir` out of its cluster, and say so in a sentence. Raises PROBLEMS."""
    identity = DirectoryReader(config.data_dir).identity()
    if identity.blank:
        raise LeaveError(f"{config.data_dir} belongs to no cluster yet: stop its daemon and delete it")
    admins = [str(address) for address in config.admin] or recall_admins(config.data_dir)
    if not admins:
        raise LeaveError(
            f"{config.data_dir} does not say which admins keep the list: name one with --admin, "
            "or, where there is none, use `ravelctl leave`"
        )
    return asyncio.run(_leave(config, identity, admins))


async def _leave(config: ServerConfig, identity: Identity, admins: Sequence[str]) -> str:
    tls = credentials.as_client(config.tls)
    who = f"{identity.name} (server {identity.server_id[:8]})"
    try:
        async with AdminClient(admins, tls=tls, timeout_s=10.0) as admin:
            left = await leave_through_admin(admin, identity.server_id, tls=tls, timeout_s=LEAVE_S)
    except NotFoundError:
        return f"{who} is not in the admin's list (any more): it has left cluster {identity.cluster_name}"
    except RavelError as error:
        raise LeaveError(str(error)) from None
    if left.last:
        return (
            f"{who} was the only replica of cluster {left.cluster}, which owned no slots: both are off the list; "
            "stop its daemon and delete its data directory"
        )
    return f"{who} has left cluster {left.cluster}: stop its daemon and delete its data directory"


PROBLEMS: Final = (LeaveError, StoreError, OSError)
"""What a person is told in one sentence."""
