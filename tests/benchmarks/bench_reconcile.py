"""How long a reconciliation of many clusters takes: asked over gRPC, worked out, and carried out.

    python -m tests.benchmarks.bench_reconcile [--clusters 100]

Every cluster is the real service Slots on a socket of its own, over a machine in memory; all run in this process, with the
admin's part, so one core does all of it. First registry and clusters agree; then cluster 1 comes back from the day when it owned
all slots.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from ravel_node.admin.commands import SetSlotMap
from ravel_node.admin.decisions import decide
from ravel_node.admin.model import ClusterEntry, ClusterNumber, Directory, Seat, ServerEntry, SlotMap
from ravel_node.machine.ownership import founded, write_ownership
from ravel_node.machine.slots import ALL_SLOTS, bitmap
from ravel_node.raft.types import Index
from ravel_node.server.app import ServerOptions, build_client_server
from ravel_node.server.clusters import Clusters
from ravel_node.server.limits import Limits
from ravel_node.server.reconciling import Reconciling
from ravelpb.slots import SLOT_COUNT
from tests.server.fakes import CLUSTER, FakeHost, as_host


class Desk:
    """The registry, as its leader has it."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    async def read(self) -> tuple[None, Directory]:
        return None, self.directory

    async def ask(self, command: SetSlotMap) -> tuple[None, Any]:
        decision = decide(self.directory, command, Index(1))
        self.directory = decision.directory
        return None, decision.answer


def owning(slots: Sequence[int] | None, version: int) -> FakeHost:
    """A cluster that owns these slots, or all."""
    host = FakeHost()
    write_ownership(host.fake.state, founded(ALL_SLOTS if slots is None else bitmap(slots), version))
    host.machine.open(host.fake.state)
    return host


@asynccontextmanager
async def serving(host: FakeHost) -> AsyncIterator[str]:
    """The address of a client server of this host."""
    server = build_client_server(as_host(host), ServerOptions(listen="127.0.0.1:0", limits=Limits()), host.fatal.append)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0.0)


async def run(count: int) -> None:
    owners = tuple(ClusterNumber(1 + slot % count) for slot in range(SLOT_COUNT))
    async with AsyncExitStack() as stack:
        addresses = {
            number: await stack.enter_async_context(
                serving(owning([slot for slot in range(SLOT_COUNT) if owners[slot] == number] if number > 1 else None, 5))
            )
            for number in range(1, count + 1)
        }
        servers = {
            f"{n:032x}": ServerEntry(f"{n:032x}", f"n{n}", "0", 1, at, f"{at}0", ClusterNumber(n), Seat.VOTER, 1)
            for n, at in addresses.items()
        }
        clusters = {
            ClusterNumber(n): ClusterEntry(ClusterNumber(n), f"c{n}", CLUSTER, founded=True, leader_id=f"{n:032x}")
            for n in addresses
        }
        desk = Desk(Directory(SlotMap(5, owners, (5,) * SLOT_COUNT), servers, clusters))
        port = Clusters(cast(Any, desk), None)
        stack.push_async_callback(port.close)
        reconciling = Reconciling(cast(Any, desk), port)
        for what in ("asked first", "asked again"):
            began = time.perf_counter()
            look = await reconciling.look(())
            print(f"{count} clusters, {what}: {time.perf_counter() - began:6.2f} s; {len(look.plan.changes)} to be told")
        began = time.perf_counter()
        while not look.plan.empty:
            look, _ = await reconciling.carry_out(look, ())
        print(f"carried out until nothing is left: {time.perf_counter() - began:6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="how long a reconciliation of many clusters takes")
    parser.add_argument("--clusters", type=int, default=100)
    asyncio.run(run(parser.parse_args().clusters))


if __name__ == "__main__":
    main()
