"""The key-value machine: what the commands of the log do to the state.

Its state is Database.KV (key -> revision u64 and value), the revision counter, sessions, and the membership. A command runs whole
or not at all: its body is read before anything is written, and whoever breaks a bound is refused by every replica alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Final, NamedTuple

from ravel_node.machine.base import Database, MemberRecord, Outcome, Reader, Start, Status, Txn
from ravel_node.machine.envelope import (
    CommandError,
    Kind,
    UnknownCommandError,
    decode,
    failed_condition,
    read_client_id,
    read_compare_and_swap,
    read_key,
    read_put,
    read_server_id,
    read_setting,
    read_write,
)
from ravel_node.machine.high_water import Marks, decode_marks, raise_marks, read_marks
from ravel_node.machine.history import History
from ravel_node.machine.limits import ENTRY_COMMANDS_MAX
from ravel_node.machine.members import (
    KEY_VALUE,
    LAST_REPLICA_ID,
    Getter,
    MemberRecordError,
    MemberVersionError,
    all_replicas,
    check_machine,
    decode_context,
    decode_member,
    read_allocated,
    read_cluster_name,
    read_conf_state,
    read_config_index,
    read_members,
    read_number,
    write_allocated,
    write_member,
    write_membership,
    write_number,
)
from ravel_node.machine.ownership import Ownership, read_ownership, take_step
from ravel_node.machine.sessions import Admission, Sessions
from ravel_node.machine.settings import read_settings, write_setting
from ravel_node.machine.slots import NO_SLOTS, difference, read_step, slots_of
from ravel_node.machine.summary import describe
from ravel_node.raft.errors import invariant
from ravel_node.raft.types import ConfState, EntryId, Index, ReplicaId

REVISION: Final = b"revision"
"""Key of Database.META: the revision counter."""

PAGE_KEYS_MAX: Final = 10_000
"""Keys of one page of a scan."""

PAGE_BYTES_MAX: Final = 1 << 20
"""Bytes of keys and values after which a page ends; it holds at least one pair."""

PAGE_READ_BYTES_MAX: Final = 16 << 20
"""Bytes of keys and values after which a page ends that returns only a part of them."""

HIDDEN_KEYS_MAX: Final = 10_000
"""Keys of slots that are not this cluster's (any more, or yet) which a page passes over before it ends."""

_U64: Final = struct.Struct(">Q")
_pack_revision: Final = _U64.pack
_Run = Callable[[int, bytes, Txn], Outcome]
"""What a kind does; its stamp is log index << 16 | place in the entry. One that changes no key says so with `_unchanged`."""

_KEYS_OF: Final[dict[int, Callable[[bytes], Sequence[bytes]]]] = {
    Kind.PUT: lambda body: (read_put(body)[0],),
    Kind.DELETE: lambda body: (read_key(body),),
    Kind.GET_AND_DELETE: lambda body: (read_key(body),),
    Kind.COMPARE_AND_SWAP: lambda body: (read_compare_and_swap(body)[0],),
    Kind.WRITE: lambda body: [key for part in read_write(body) for key, _ in part],
}
"""All keys that a write is about, those of its conditions too."""

_READING: Final = frozenset(_KEYS_OF) - {Kind.PUT}
"""Kinds of writes that read records of their keys."""

_PLACE_MASK: Final = ENTRY_COMMANDS_MAX - 1


class KeyValue(NamedTuple):
    """A stored pair and the revision at which it was last written."""

    key: bytes
    value: bytes
    revision: int


class Page(NamedTuple):
    """A part of a scan, at one point in time: `revision` is the cluster's. With `more`, go on from `next`."""

    items: list[KeyValue]
    more: bool
    revision: int
    next: bytes = b""


def get(reader: Reader, key: bytes) -> KeyValue | None:
    """The pair with this key."""
    record = reader.get(Database.KV, key)
    if record is None:
        return None
    return KeyValue(key, record[8:], int.from_bytes(record[:8], "big"))


def scan(
    reader: Reader,
    start: bytes,
    end: bytes | None,
    limit: int,
    *,
    bytes_max: int = PAGE_BYTES_MAX,
    keys_only: bool = False,
    ownership: Ownership | None = None,
) -> Page:
    """The first `limit` (1 to PAGE_KEYS_MAX) pairs with start <= key < end in byte order; `end` None: to the last key.

    The page ends early once it holds `bytes_max` of keys and values, or PAGE_READ_BYTES_MAX were read for it. With `keys_only`
    values are left empty. With `ownership`,
    which is the reader's, keys that it hides are passed over; a page may then be empty though there is more.
    """
    invariant(0 < limit <= PAGE_KEYS_MAX, f"a page of {limit} keys, where 1 to {PAGE_KEYS_MAX} are allowed")
    items: list[KeyValue] = []
    size = bytes_read = 0
    more = False
    hidden = 0
    following = start
    for key, record in reader.scan(Database.KV, start, end):
        if len(items) == limit or size >= bytes_max or bytes_read >= PAGE_READ_BYTES_MAX or hidden == HIDDEN_KEYS_MAX:
            more = True
            following = key
            break
        bytes_read += len(key) + len(record)
        if ownership is not None and not ownership.readable(key):
            hidden += 1
            continue
        value = b"" if keys_only else record[8:]
        items.append(KeyValue(key, value, int.from_bytes(record[:8], "big")))
        size += len(key) + len(value)
    return Page(items, more, read_revision(reader.get), following)


def read_revision(read: Getter) -> int:
    """The cluster's revision in a state that is read without its machine."""
    return read_number(read, REVISION)


class KVMachine:
    """The StateMachine of a cluster. Everything it keeps in memory is a copy of the state, loaded by `open`."""

    machine: ClassVar[bytes] = KEY_VALUE
    """What the state says of itself (see members.MACHINE)."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._history = History()
        self._revision = 0
        self._members: dict[ReplicaId, MemberRecord] = {}
        self._removed: frozenset[ReplicaId] = frozenset()
        self._conf_state = ConfState()
        self._config_index = Index(0)
        self._cluster_name = ""
        self._checksum_index = Index(0)
        self._ownership: Ownership | None = None
        self._marks: Marks = {}
        self._settings: Mapping[str, str] = {}
        self._raise_to = 0  # the revision must not be below it once the present entry was applied
        self._activated: Ownership | None = None  # what holds once the present entry was applied, where it activates slots
        self._free_runs: Final[dict[int, _Run]] = {
            Kind.PUT: self._put,
            Kind.DELETE: self._delete,
            Kind.GET_AND_DELETE: self._get_and_delete,
            Kind.COMPARE_AND_SWAP: self._compare_and_swap,
            Kind.WRITE: self._write,
            Kind.REGISTER_SESSION: self._register_session,
            Kind.ALLOCATE_REPLICA: self._allocate_replica,
            Kind.SET_MEMBER: self._set_member,
            Kind.CHECKSUM: self._checksum,
            Kind.SLOTS: self._slots,
            Kind.DIRECTORY: self._directory,
            Kind.HIGH_WATER: self._high_water,
            Kind.SETTING: self._setting,
        }
        self._runs: Final = dict(self._free_runs)
        self._runs_once: Final = self._free_runs | _NOT_ONCE

    def open(self, reader: Reader) -> None:
        """See StateMachine. Raises MemberVersionError where a later version wrote the state, WrongMachineError for another's."""
        check_machine(reader.get, self.machine)
        self._sessions = Sessions()
        self._sessions.open(reader)
        self._history = History()
        self._history.open(reader)
        self._revision = read_revision(reader.get)
        self._conf_state = read_conf_state(reader.get)
        self._config_index = read_config_index(reader.get)
        self._cluster_name = read_cluster_name(reader.get)
        self._take_members(read_members(reader))
        self._take_ownership(read_ownership(reader))
        self._marks = read_marks(reader)
        self._settings = read_settings(reader)

    # --- what is known of the cluster

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def members(self) -> dict[ReplicaId, MemberRecord]:
        """Records by replica id, removed ones too. Replaced, never changed, when one changes."""
        return self._members

    @property
    def removed_ids(self) -> frozenset[ReplicaId]:
        return self._removed

    @property
    def conf_state(self) -> ConfState:
        return self._conf_state

    @property
    def config_index(self) -> Index:
        """The log index of the newest applied membership change."""
        return self._config_index

    @property
    def cluster_name(self) -> str:
        return self._cluster_name

    @property
    def checksum_index(self) -> Index:
        """The last applied entry that asks for a hash of the state; 0: none was since `open`."""
        return self._checksum_index

    @property
    def ownership(self) -> Ownership | None:
        """Which slots this cluster owns; None: all, since it was never told. Replaced, never changed, when it changes."""
        return self._ownership

    @property
    def marks(self) -> Marks:
        """High-water marks of members, as the log has them. Replaced, never changed, when one rises."""
        return self._marks

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of the whole cluster that are not at their defaults. Replaced, never changed."""
        return self._settings

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    def is_removed(self, replica_id: ReplicaId) -> bool:
        return replica_id in self._removed

    def member_by_server(self, server_id: str) -> MemberRecord | None:
        """The record of a server, also of a removed one."""
        return next((record for record in self._members.values() if record.server_id == server_id), None)

    def _take_members(self, members: dict[ReplicaId, MemberRecord]) -> None:
        self._members = members
        self._removed = frozenset(record.replica_id for record in members.values() if record.removed)

    def _take_ownership(self, ownership: Ownership | None) -> None:
        """A cluster that was never told of slots runs writes as they are: ownership costs it nothing."""
        if (ownership is None) != (self._ownership is None):
            writes = {kind: self._free_runs[kind] if ownership is None else self._guarded(kind) for kind in _KEYS_OF}
            self._runs.update(writes)
            self._runs_once.update(writes)
        self._ownership = ownership

    # --- applying

    def apply(self, at: EntryId, payload: bytes, txn: Txn) -> Sequence[Outcome]:
        """See StateMachine. Nothing of an entry that raises has been written."""
        before = self._revision
        outcomes: list[Outcome] = []
        for once, commands in decode(payload):
            if len(outcomes) + len(commands) > ENTRY_COMMANDS_MAX:
                outcomes += [_refused(f"an entry of more than {ENTRY_COMMANDS_MAX} commands")] * len(commands)
                continue
            stamp = at.index << 16 | len(outcomes)
            if once is None:
                outcomes += self._run(self._runs, commands, stamp, txn)
            elif commands:
                admission = self._sessions.admit(once, commands, stamp, txn)
                revision = self._revision
                noted = len(self._history.idle)
                fresh = self._run(self._runs_once, admission.commands, stamp, txn)
                if admission.answers is not None:
                    self._spread_idle(admission, noted, len(outcomes))
                outcomes += self._sessions.settle(admission, fresh, self._revision - revision, txn)
        self._sessions.write(txn)
        if self._raise_to:
            self._history.raised = max(0, self._raise_to - self._revision)
            self._revision += self._history.raised
            self._raise_to = 0
        if self._activated is not None:
            before_it = NO_SLOTS if self._ownership is None else self._ownership.owned
            self._history.arrived = slots_of(difference(self._activated.owned, before_it))
            self._take_ownership(self._activated)
            self._activated = None
        if self._revision != before:
            write_number(txn, REVISION, self._revision)
        self._history.applied(at.index, before, self._revision, txn)
        return outcomes

    def keys_read(self, payload: bytes) -> Sequence[bytes]:
        """See StateMachine."""
        keys: list[bytes] = []
        for _, commands in decode(payload):
            for kind, _, body in commands:
                if kind in _READING:
                    with suppress(CommandError):  # refused, when it is applied
                        keys += _KEYS_OF[kind](body)
        return keys

    def _unchanged(self, stamp: int, operations: Sequence[int] = ()) -> None:
        """The command at this place, or these operations of it, found nothing to change."""
        self._history.idle.append((stamp & _PLACE_MASK, operations))

    def _spread_idle(self, admission: Admission, noted: int, first: int) -> None:
        """Commands with a stored answer did nothing now, and those that ran stand further on than they were counted."""
        idle = self._history.idle
        ran = {place - first: operations for place, operations in idle[noted:]}
        del idle[noted:]
        number = 0
        for at, answer in enumerate(admission.answers or ()):
            if answer is not None:
                idle.append((first + at, ()))
                continue
            if number in ran:
                idle.append((first + at, ran[number]))
            number += 1

    def _run(self, runs: Mapping[int, _Run], commands: Sequence[tuple[int, int, bytes]], stamp: int, txn: Txn) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for kind, _, body in commands:
            try:
                outcomes.append(runs[kind](stamp + len(outcomes), body, txn))
            except CommandError as error:
                if kind <= Kind.WRITE:
                    self._unchanged(stamp + len(outcomes))
                outcomes.append(_refused(str(error)))
        return outcomes

    def _put(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        key, value = read_put(body)
        self._revision = revision = self._revision + 1
        txn.put(Database.KV, key, _pack_revision(revision) + value)
        return Outcome(Status.OK, revision)

    def _delete(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        key = read_key(body)
        if txn.get(Database.KV, key) is None:
            self._unchanged(stamp)
            return Outcome(Status.OK, self._revision)
        self._revision += 1
        txn.delete(Database.KV, key)
        return Outcome(Status.OK, self._revision, True)

    def _get_and_delete(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        key = read_key(body)
        revision, value = _stored(txn, key)
        if value is None:
            self._unchanged(stamp)
            return Outcome(Status.OK)
        self._revision += 1
        txn.delete(Database.KV, key)
        return Outcome(Status.OK, revision, True, value)

    def _compare_and_swap(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        key, expected, value = read_compare_and_swap(body)
        revision, actual = _stored(txn, key)
        if revision != expected:
            self._unchanged(stamp)
            return Outcome(Status.CONDITION_FAILED, revision, actual is not None, actual or b"")
        self._revision += 1
        txn.put(Database.KV, key, _pack_revision(self._revision) + value)
        return Outcome(Status.OK, self._revision)

    def _write(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        conditions, operations = read_write(body)
        for key, expected in conditions:
            revision, actual = _stored(txn, key)
            if revision != expected:
                self._unchanged(stamp)
                value = failed_condition(key, actual or b"")
                return Outcome(Status.CONDITION_FAILED, revision, actual is not None, value)
        revision = self._revision + 1
        missing: list[int] = []
        for number, (key, new) in enumerate(operations):
            if new is not None:
                txn.put(Database.KV, key, _pack_revision(revision) + new)
            elif txn.get(Database.KV, key) is not None:
                txn.delete(Database.KV, key)
            else:
                missing.append(number)
        if len(missing) == len(operations):
            self._unchanged(stamp)
            return Outcome(Status.OK, self._revision)
        self._revision = revision
        if missing:
            self._unchanged(stamp, missing)
        return Outcome(Status.OK, revision)

    def _register_session(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        client_id = read_client_id(body) or stamp
        if not self._sessions.register(client_id, stamp, txn):
            return _refused(f"client id {client_id} is in use: draw another one")
        return Outcome(Status.OK, client_id)

    def _allocate_replica(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        server_id = read_server_id(body)
        replica_id = read_allocated(txn.get, server_id)
        if replica_id in self._removed:
            return _refused(
                f"server {server_id} was replica {replica_id} of this cluster and was removed: "
                "a removed server cannot come back under its old identity, wipe its data directory and join again"
            )
        if not replica_id:
            replica_id = ReplicaId(read_number(txn.get, LAST_REPLICA_ID) + 1)
            write_allocated(txn, server_id, replica_id)
        return Outcome(Status.OK, replica_id)

    def _set_member(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        try:
            record = replace(decode_member(body), removed=False)
        except MemberRecordError as error:
            return _refused(str(error))
        if refusal := self.member_refusal(record):
            return _refused(refusal)
        write_member(txn, record)
        self._take_members(self._members | {record.replica_id: record})
        return Outcome(Status.OK)

    def _checksum(self, stamp: int, body: bytes, _txn: Txn) -> Outcome:
        """Changes nothing: whoever applies the entry hashes what it leaves (see `checksum_index`)."""
        if body:
            raise CommandError(f"a checksum has no body, not one of {len(body)} bytes")
        self._checksum_index = Index(stamp >> 16)
        return Outcome(Status.OK, self._checksum_index)

    def _slots(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        """A raise of the revision takes effect at the end of the entry, so that changes within one still count by ones.

        So do slots that it activates or owns from now on: what is written to them has revisions after the raise.
        """
        command = read_step(body)
        if self._activated is not None:
            raise CommandError("slots came with this very entry, and are this cluster's only after it: repeat the step")
        taken = take_step(self._ownership, command, max(self._revision, self._raise_to), txn)
        if taken.gains:
            self._activated = taken.ownership
        else:
            self._take_ownership(taken.ownership)
        self._raise_to = max(self._raise_to, taken.revision)
        next_chunk = _U64.pack(taken.next_chunk) if taken.next_chunk else b""
        return Outcome(Status.OK, taken.left or max(self._revision, self._raise_to), taken.more or taken.taken, next_chunk)

    def _high_water(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        try:
            marks = decode_marks(body)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self._marks = raise_marks(self._marks, marks, txn)
        return Outcome(Status.OK)

    def _setting(self, _stamp: int, body: bytes, txn: Txn) -> Outcome:
        name, value = read_setting(body)
        self._settings = write_setting(self._settings, name, value, txn)
        return Outcome(Status.OK)

    def _guarded(self, kind: int) -> _Run:
        """What this kind of write does in a cluster that owns some of the slots."""
        run, keys_of = self._free_runs[kind], _KEYS_OF[kind]

        def run_guarded(stamp: int, body: bytes, txn: Txn) -> Outcome:
            ownership = self._ownership
            if ownership is None:
                return run(stamp, body, txn)
            keys = keys_of(body)
            if (refusal := ownership.refusal(keys)) is not None:
                self._unchanged(stamp)
                return refusal
            before = self._revision
            outcome = run(stamp, body, txn)
            if ownership.exported and self._revision != before:
                ownership.note(keys, self._revision, txn)
            return outcome

        return run_guarded

    def _directory(self, _stamp: int, _body: bytes, _txn: Txn) -> Outcome:
        raise CommandError("this cluster is no admin group: it keeps no directory")

    def member_refusal(self, record: MemberRecord) -> str:
        """Why this record may not replace its member's; empty if it may."""
        known = self._members.get(record.replica_id)
        if known is None or known.removed:
            return f"replica {record.replica_id} is {'removed' if known else 'not a member'}: only a member's record can be set"
        if known.server_id != record.server_id:
            return f"replica {record.replica_id} is server {known.server_id}, not {record.server_id}: a member keeps its identity"
        for other in self._members.values():
            if other.name == record.name and other.replica_id != record.replica_id and not other.removed:
                return f"replica {other.replica_id} is named {record.name} already: choose another name"
        return ""

    def apply_membership(self, at: EntryId, conf_state: ConfState, context: bytes, txn: Txn) -> None:
        """See StateMachine. Raises UnknownCommandError where a later version wrote the context.

        The change has taken effect in the core whatever its context is: one that cannot be read, which only a leader's bug makes,
        adds no record on any replica. A removed member stays removed even if a change names it again.
        """
        try:
            records = decode_context(context)
        except MemberRecordError:
            records = []
        except MemberVersionError as error:
            raise UnknownCommandError(error.what) from error
        members = dict(self._members)
        for record in records:
            known = members.get(record.replica_id)
            members[record.replica_id] = replace(record, removed=known is not None and known.removed)
        present = all_replicas(conf_state)
        for record in list(members.values()):
            if record.replica_id not in present and not record.removed:
                members[record.replica_id] = replace(record, removed=True)
        for replica_id, record in members.items():
            if record != self._members.get(replica_id):
                write_member(txn, record)
        self._take_members(dict(sorted(members.items())))
        self._conf_state, self._config_index = conf_state, at.index
        write_membership(txn, conf_state, at.index)
        self._history.applied(at.index, self._revision, self._revision, txn)

    def refounded(self, txn: Txn, start: Start) -> None:
        """See StateMachine. Revisions rise already (see refounding), and nothing else is known outside."""

    def summarize(self, payload: bytes) -> list[str]:
        """See StateMachine. `summary.describe` tells the type of each command too."""
        return [line for _, line in describe(payload)]


def _stored(txn: Txn, key: bytes) -> tuple[int, bytes | None]:
    """Revision and value of a key; 0 and None where it is not there."""
    record = txn.get(Database.KV, key)
    if record is None:
        return 0, None
    return int.from_bytes(record[:8], "big"), record[8:]


def _refused(sentence: str) -> Outcome:
    return Outcome(Status.REFUSED, value=sentence.encode())


def _refuse_registration(_stamp: int, _body: bytes, _txn: Txn) -> Outcome:
    """A registration within a session could end that very session."""
    return _refused("a session cannot be registered within a session: leave `once` out")


def _refuse_checksum(_stamp: int, _body: bytes, _txn: Txn) -> Outcome:
    """Only a leader asks for one, and never twice for the same."""
    return _refused("a checksum is not one of a session's writes: leave `once` out")


def _refuse_once(_stamp: int, _body: bytes, _txn: Txn) -> Outcome:
    """Servers change slots and the directory, by commands that may be repeated."""
    return _refused("slots and the directory are changed by commands of their own: leave `once` out")


_NOT_ONCE: Final[dict[int, _Run]] = {
    Kind.REGISTER_SESSION: _refuse_registration,
    Kind.CHECKSUM: _refuse_checksum,
    Kind.SLOTS: _refuse_once,
    Kind.DIRECTORY: _refuse_once,
}
"""What does not run under a client's session."""
