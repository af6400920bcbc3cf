"""Servers that are told by an admin group where they belong: joining, leaving, and admins that are killed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.admins import running_system

pytestmark = pytest.mark.e2e


async def test_servers_find_their_clusters_and_leave_them(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        for name in ("n1", "n2", "n3"):
            system.start(name)
        await system.seated("default", "n1", "n2", "n3")
        n2 = system.servers.servers["n2"]
        status, said = await system.leave(n2)
        print(said)
        assert status == 0
        await system.seated("default", "n1", "n3")
