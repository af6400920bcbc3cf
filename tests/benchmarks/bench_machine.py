"""How fast puts are encoded and applied on one core, with and without exactly-once.

Run: python tests/benchmarks/bench_machine.py [--puts N] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "protos")]

from ravel_node.machine import envelope  # noqa: E402
from ravel_node.machine.envelope import Once  # noqa: E402
from ravel_node.machine.kv import KVMachine  # noqa: E402
from ravel_node.raft.types import EntryId, Index, Term  # noqa: E402
from tests.machine.memory_txn import MemoryState  # noqa: E402

KEYS = [f"key-{number:012}".encode() for number in range(10_000)]
VALUE = b"v" * 256


def fresh() -> tuple[KVMachine, MemoryState, int]:
    """A machine with one registered session."""
    machine, state = KVMachine(), MemoryState()
    machine.open(state)
    at = EntryId(Term(1), Index(1))
    (outcome,) = machine.apply(at, envelope.payload([envelope.group([envelope.register_session()])]), state)
    return machine, state, outcome.revision


def encode(puts: int, a_group: int, groups: int, client_id: int) -> list[bytes]:
    """Payloads of `groups` groups of `a_group` puts each, `puts` in all."""
    payloads = []
    sequence = 1
    for first in range(0, puts, a_group * groups):
        parts = []
        for at in range(first, first + a_group * groups, a_group):
            commands = [envelope.put(KEYS[number % len(KEYS)], VALUE) for number in range(at, at + a_group)]
            # As a client that keeps four requests in flight acknowledges.
            once = Once(client_id, sequence, max(1, sequence - 4 * a_group)) if client_id else None
            parts.append(envelope.group(commands, once))
            sequence += a_group
        payloads.append(envelope.payload(parts))
    return payloads


def apply(machine: KVMachine, state: MemoryState, payloads: list[bytes]) -> None:
    for index, payload in enumerate(payloads, 2):
        machine.apply(EntryId(Term(1), Index(index)), payload, state)


def measure(name: str, puts: int, a_group: int, groups: int, rounds: int) -> None:
    """Print the best of some rounds, the ones with and without Once in turn."""
    best = [0.0] * 4
    for _ in range(rounds):
        for column, once in ((0, False), (2, True)):
            machine, state, client_id = fresh()
            began = process_time()
            payloads = encode(puts, a_group, groups, client_id if once else 0)
            encoded = process_time()
            apply(machine, state, payloads)
            best[column] = max(best[column], puts / (encoded - began))
            best[column + 1] = max(best[column + 1], puts / (process_time() - encoded))
    plain, once_cost = 1 / best[0] + 1 / best[1], 1 / best[2] + 1 / best[3]
    print(f"{name:34} {best[0]:>12,.0f} {best[1]:>12,.0f} {best[2]:>12,.0f} {best[3]:>12,.0f} {once_cost / plain:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puts", type=int, default=16_384, help="a round; rounded up to whole entries")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(
        "puts a second of processor time, 16-byte keys, 256-byte values, best of",
        options.rounds,
        "rounds; cost: time with Once / without, both steps",
    )
    print(f"{'entry':34} {'encode':>12} {'apply':>12} {'encode once':>12} {'apply once':>12} {'cost':>8}")
    measure("1 group of 64 puts", options.puts, 64, 1, options.rounds)
    measure("4 groups of 64 puts", options.puts, 64, 4, options.rounds)
    measure("1 group of 1 put", options.puts // 4, 1, 1, options.rounds)
    measure("64 groups of 1 put, one client", options.puts, 1, 64, options.rounds)


if __name__ == "__main__":
    main()
