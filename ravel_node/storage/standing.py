"""Who is in the cluster by a data directory: what its state says, and what its log has changed since.

The state on disk may be many entries behind what was applied, and a change of membership is one of them. Whoever counts the
directories of a lost cluster, or looks for its newest membership, must take the log into account, as a daemon does that starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.members import MemberRecordError, MemberVersionError, all_replicas, decode_context
from ravel_node.raft.confchange import Changer, decode_conf_change
from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.tracker import Membership
from ravel_node.raft.types import ConfState, Entry, EntryType, Index, ReplicaId
from ravel_node.storage.log_pages import read_log_page
from ravel_node.storage.survey import DirectoryFacts, DirectoryReader


@dataclass(frozen=True, slots=True)
class Standing:
    """A membership, and the records of its members, removed ones too. Addresses that were changed since the state was flushed
    are not in them."""

    conf_state: ConfState
    config_index: Index
    members: tuple[MemberRecord, ...]


def standing(directory: DirectoryReader, facts: DirectoryFacts) -> Standing:
    """The newest membership that this directory knows to be committed. Entries that cannot be read are passed over.

    Empty where the state cannot be read. One short read transaction a page; raises StoreError.
    """
    state, log = facts.state, facts.log
    if state is None or state.applied is None:
        return Standing(ConfState(), Index(0), ())
    conf_state, config_index, members = state.conf_state, state.config_index, {m.replica_id: m for m in state.members}
    at = Index(max(state.applied.index + 1, log.first_index))
    end = Index(min(log.hard_state.commit if log.hard_state is not None else 0, log.last_index) + 1)
    while at < end:
        page = directory.raft.read(lambda txn, at=at: read_log_page(txn, at, end))  # type: ignore[misc]
        for record in page.records:
            if record.entry is not None and record.entry.type is not EntryType.NORMAL:
                conf_state, config_index = changed(conf_state, record.entry), record.index
                _take_records(members, record.entry, conf_state)
        at = page.next
    return Standing(conf_state, config_index, tuple(members[replica_id] for replica_id in sorted(members)))


def changed(conf_state: ConfState, entry: Entry) -> ConfState:
    """The membership after a change. One that cannot be leaves it as it is, as in the core."""
    try:
        return Changer(Membership.from_conf_state(conf_state)).change(decode_conf_change(entry)).membership.conf_state()
    except ConfChangeError:
        return conf_state


def _take_records(members: dict[ReplicaId, MemberRecord], entry: Entry, conf_state: ConfState) -> None:
    """As `KVMachine.apply_membership`: records come with the change, and whoever is in no list any more is removed for good."""
    try:
        records = decode_context(decode_conf_change(entry).context)
    except (MemberRecordError, MemberVersionError):
        records = []
    for record in records:
        known = members.get(record.replica_id)
        members[record.replica_id] = replace(record, removed=known is not None and known.removed)
    present = all_replicas(conf_state)
    for replica_id, record in members.items():
        if replica_id not in present:
            members[replica_id] = replace(record, removed=True)
