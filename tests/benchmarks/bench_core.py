"""How fast the consensus core is by itself: three cores in one process, messages handed over in memory, saves done at once.

    python -m tests.benchmarks.bench_core [--entries 20000]

Prints entries a second for single proposals and for batches, and the time of a turn that has nothing to do.
"""

from __future__ import annotations

import argparse
from collections import deque
from random import Random
from time import perf_counter

from ravel_node.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ConfState,
    HardState,
    Index,
    MemoryStorage,
    Message,
    RaftConfig,
    RawNode,
    ReplicaId,
    Snapshot,
    Term,
)

VOTERS = (ReplicaId(1), ReplicaId(2), ReplicaId(3))


class Trio:
    """Three cores with asynchronous storage whose saves are done the moment they are asked for."""

    def __init__(self) -> None:
        self.stores: dict[ReplicaId, MemoryStorage] = {}
        self.nodes: dict[ReplicaId, RawNode] = {}
        self.network: deque[Message] = deque()
        for voter in VOTERS:
            store = self.stores[voter] = MemoryStorage()
            store.apply_snapshot(Snapshot(Index(1), Term(1), ConfState(VOTERS)))
            config = RaftConfig(id=voter, applied=Index(1), async_storage_writes=True, proposal_forwarding=False)
            self.nodes[voter] = RawNode(config, store, Random(voter))
        self.leader = self.nodes[VOTERS[0]]
        self.leader.campaign()
        self.settle()

    def settle(self) -> None:
        """Carry out everything until nobody has anything to do."""
        while True:
            for node in self.nodes.values():
                while node.has_ready():
                    for message in node.ready().messages:
                        self._carry(node, message)
            if not self.network:
                return
            while self.network:
                message = self.network.popleft()
                self.nodes[message.to].step(message)

    def _carry(self, node: RawNode, message: Message) -> None:
        if message.to == LOCAL_APPEND:
            store = self.stores[node.id]
            if message.term:
                store.set_hard_state(HardState(message.term, message.vote, message.commit))
            store.append(list(message.entries))
        elif message.to != LOCAL_APPLY:
            self.network.append(message)
            return
        for response in message.responses:
            self.network.append(response)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000)
    entries = parser.parse_args().entries
    for batch in (1, 8, 64):
        trio = Trio()
        data = [b"x" * 300] * batch
        began = perf_counter()
        for _ in range(entries // batch):
            trio.leader.propose_many(data)
            trio.settle()
        took = perf_counter() - began
        print(f"propose {batch:2} at once, committed and applied on three: {entries / took:9,.0f} entries/s")
    trio = Trio()
    began = perf_counter()
    for _ in range(entries):
        trio.leader.tick()
        trio.settle()
    print(f"a tick of the leader with its heartbeats:              {1e6 * (perf_counter() - began) / entries:9.1f} µs")


if __name__ == "__main__":
    main()
