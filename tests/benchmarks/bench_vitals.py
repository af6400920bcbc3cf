"""What measuring itself costs a replica, on the path of every entry: processor time, so that a busy machine says the same.

    python -m tests.benchmarks.bench_vitals

Prints microseconds for each thing that is noted, and for one entry of a leader of three: its append, its save, its application,
its commit, and two acknowledgements. An entry holds up to 1,024 commands.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from timeit import repeat

from ravel_node.raft import Entry, Index, Message, MessageType, RaftEvent, ReplicaId, Term
from ravel_node.replica.events import EventLog
from ravel_node.replica.replica import boot_clock
from ravel_node.replica.vitals import Vitals

TERM = Term(1)


class Nobody:
    """An observer that does nothing."""

    def raft_event(self, event: RaftEvent) -> None: ...

    def saved(self, seconds: float, saves: int, entries: int) -> None: ...

    def applied(self, seconds: float, commands: int) -> None: ...

    def committed(self, seconds: float) -> None: ...


class Bench:
    def __init__(self, number: int) -> None:
        self.number = number
        self.vitals = Vitals(
            Nobody(), EventLog("b", time.time), clock=boot_clock, term=TERM, last_index=Index(0), name_of=str, leads=lambda: True
        )
        self.entries = [Entry(TERM, Index(index), data=b"v" * 4_000) for index in range(1, 5 * number + 1)]

    def cost_us(self, step: Callable[[], object]) -> float:
        """The best of five."""
        return min(repeat(step, number=self.number, repeat=5, timer=time.process_time)) / self.number * 1e6

    def run(self) -> None:
        vitals, entries, messages = self.vitals, iter(self.entries), self.exchanges()
        costs = {
            "append": self.cost_us(lambda: vitals.appended((next(entries),))),
            "save": self.cost_us(lambda: vitals.saved(0.0012, 1, 1)),
            "apply": self.cost_us(lambda: vitals.applied(0.0004, 64)),
            "commit": self.cost_us(lambda: vitals.committed(0.004)),
            "acknowledgement": self.cost_us(lambda: self.exchange(*next(messages))),
        }
        for name, cost in costs.items():
            print(f"{name:16} {cost:6.2f} us")
        print(f"{'entry of three':16} {sum(costs.values()) + costs['acknowledgement']:6.2f} us")

    def exchange(self, append: Message, answer: Message) -> None:
        self.vitals.sending((append,))
        self.vitals.acks.answered(answer, boot_clock())

    def exchanges(self) -> Iterator[tuple[Message, Message]]:
        own, peer = ReplicaId(1), ReplicaId(2)
        made = [
            (
                Message(MessageType.APPEND, to=peer, from_=own, term=TERM, entries=(entry,)),
                Message(MessageType.APPEND_RESPONSE, to=own, from_=peer, term=TERM, index=entry.index),
            )
            for entry in self.entries
        ]
        return iter(made)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=20_000, help="how often each is done in a round")
    Bench(parser.parse_args().number).run()


if __name__ == "__main__":
    main()
