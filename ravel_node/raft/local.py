"""Answers of the local log writer and the local state machine, which every role takes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravel_node.raft.storage import entry_size

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft
    from ravel_node.raft.types import Message


def handle_saved(raft: Raft, message: Message) -> None:
    """Entries up to (log_term, index), or a snapshot, or both, are durable."""
    if message.index:
        raft.log.stable_to(message.index, message.log_term)
    if message.snapshot is not None:
        raft.applied_snapshot(message.snapshot.index)


def handle_applied(raft: Raft, message: Message) -> None:
    """The state machine applied the entries that it was given."""
    entries = message.entries
    if entries:
        raft.applied_to(entries[-1].index, sum(map(entry_size, entries)))
        raft.reduce_uncommitted(sum([len(entry.data) for entry in entries]))
