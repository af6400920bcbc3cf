"""What the machine's tests share: a machine with its state, entries applied one after the other, strategies for commands."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.base import Database, MemberRecord, Outcome
from ravel_node.machine.envelope import Once
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import bootstrap_state, encode_context
from ravel_node.raft.types import ConfState, EntryId, Index, ReplicaId, Term
from tests.machine.memory_txn import MemoryState


def server_id(number: int) -> str:
    return f"{number:032x}"


def member(number: int, *, name: str = "", server: int = 0, auto_promote: bool = False, removed: bool = False) -> MemberRecord:
    """The record of replica `number`, on server `number` unless said otherwise."""
    return MemberRecord(
        replica_id=ReplicaId(number),
        server_id=server_id(server or number),
        name=name or f"n{number}",
        version="0.1.0",
        format=1,
        listen=f"10.0.0.{number}:7400",
        peer=f"10.0.0.{number}:7401",
        listen_bind="0.0.0.0:7400",
        peer_bind="0.0.0.0:7401",
        auto_promote=auto_promote,
        removed=removed,
    )


def voters(*ids: int, learners: Sequence[int] = (), outgoing: Sequence[int] = ()) -> ConfState:
    return ConfState(
        voters=tuple(map(ReplicaId, ids)),
        learners=tuple(map(ReplicaId, learners)),
        voters_outgoing=tuple(map(ReplicaId, outgoing)),
    )


class Cluster:
    """One machine and its state: the cluster `orders`, whose log begins after index 1."""

    def __init__(self) -> None:
        self.state = MemoryState()
        bootstrap_state(self.state, cluster_name="orders", member=member(1), conf_state=voters(1), config_index=Index(1))
        self.machine = KVMachine()
        self.index = 1
        self.reopen()

    def reopen(self) -> None:
        """As after a restart: all that is in memory is loaded again."""
        self.machine = KVMachine()
        self.machine.open(self.state)

    def next(self) -> EntryId:
        self.index += 1
        return EntryId(Term(1), Index(self.index))

    def apply(self, *groups: bytes) -> list[Outcome]:
        """One entry with these groups."""
        return list(self.machine.apply(self.next(), envelope.payload(groups), self.state))

    def run(self, *commands: bytes, once: Once | None = None, offsets: Sequence[int] | None = None) -> list[Outcome]:
        """One entry with one group."""
        return self.apply(envelope.group(commands, once, offsets))

    def change(self, conf_state: ConfState, *records: MemberRecord, context: bytes | None = None) -> None:
        """Apply a membership change."""
        raw = encode_context(records) if context is None else context
        self.machine.apply_membership(self.next(), conf_state, raw, self.state)

    def register(self) -> int:
        (outcome,) = self.run(envelope.register_session())
        return outcome.revision

    def content(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """Every byte of the state but the notes on what entries did, which also tell of one that did nothing."""
        return {name: pairs for name, pairs in self.state.content().items() if name != Database.HISTORY.name}

    def rows(self, database: Database) -> dict[bytes, bytes]:
        return dict(self.state.databases[database])


keys = st.sampled_from([b"a", b"b", b"c", b"orders/17", b"\x00", b"\xff" * 480])
"""Few, so that commands meet."""

values = st.binary(max_size=6)
revisions = st.integers(0, 12)
bad_commands = st.sampled_from(
    [
        envelope.put(b"", b"v"),
        envelope.put(b"k" * 481, b"v"),
        envelope.delete(b""),
        envelope.compare_and_swap(b"k" * 481, 0, b""),
        envelope.write([], [(b"a", b"1"), (b"a", None)]),
        envelope.allocate_replica("not-an-id"),
    ]
)


def operations() -> st.SearchStrategy[list[tuple[bytes, bytes | None]]]:
    return st.lists(st.tuples(keys, st.none() | values), max_size=4, unique_by=lambda operation: operation[0])


def write_arguments() -> st.SearchStrategy[tuple[list[tuple[bytes, int]], list[tuple[bytes, bytes | None]]]]:
    return st.tuples(st.lists(st.tuples(keys, revisions), max_size=2), operations())


def commands() -> st.SearchStrategy[bytes]:
    """Every kind that touches user data, and some that are refused."""
    return st.one_of(
        st.builds(envelope.put, keys, values),
        st.builds(envelope.delete, keys),
        st.builds(envelope.get_and_delete, keys),
        st.builds(envelope.compare_and_swap, keys, revisions, values),
        write_arguments().map(lambda arguments: envelope.write(*arguments)),
        bad_commands,
    )
