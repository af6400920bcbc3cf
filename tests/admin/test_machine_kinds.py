"""Which machine a state is of: an admin group's is not a cluster's, and the other way round."""

from __future__ import annotations

import pytest

from ravel_node.admin.answers import RefusedError, read_answer
from ravel_node.admin.codec import encode
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.machine import envelope
from ravel_node.machine.envelope import Once, UnknownCommandError
from ravel_node.machine.kv import KVMachine, get
from ravel_node.machine.members import WrongMachineError
from ravelpb.errors import Reason
from tests.admin.helpers import Admin, registering
from tests.machine.helpers import Cluster
from tests.machine.memory_txn import MemoryState


def test_each_refuses_the_others_state() -> None:
    with pytest.raises(WrongMachineError, match="state of an admin server: start it with `ravel_node admin`"):
        KVMachine().open(Admin().state)
    with pytest.raises(WrongMachineError, match="not of an admin group: start it with `ravel_node start`"):
        DirectoryMachine().open(Cluster().state)


def test_a_state_that_nothing_was_applied_to_may_become_either() -> None:
    for machine in (KVMachine(), DirectoryMachine()):
        machine.open(MemoryState())
        assert machine.cluster_name == ""


def test_a_cluster_of_keys_refuses_commands_of_the_directory() -> None:
    (outcome,) = Cluster().run(envelope.directory(encode(registering(1))))
    with pytest.raises(RefusedError, match="keeps no directory") as told:
        read_answer(outcome)
    assert told.value.reason is Reason.INVALID_ARGUMENT


def test_an_admin_group_keeps_keys_too() -> None:
    admin = Admin()
    admin.run(registering(1))
    put, registered = admin.apply(envelope.group([envelope.put(b"k", b"v"), envelope.directory(encode(registering(2)))]))
    assert (put.revision, registered.value) == (1, b'{"cluster":1}')
    assert get(admin.state, b"k") is not None


def test_the_directory_is_not_changed_within_a_session() -> None:
    admin = Admin()
    (client,) = admin.apply(envelope.group([envelope.register_session()]))
    group = envelope.group([envelope.directory(encode(registering(1)))], Once(client.revision, 1, 1))
    (outcome,) = admin.apply(group)
    with pytest.raises(RefusedError, match="leave `once` out"):
        read_answer(outcome)


def test_what_a_later_version_wrote_stops_the_replica_before_anything_of_its_entry_was_applied() -> None:
    admin = Admin()
    before = admin.state.content()
    for later in (b'{"kind":"later"}', encode(registering(2)).replace(b'"format"', b'"fashion"')):
        with pytest.raises(UnknownCommandError, match="upgrade this server"):
            admin.entry(encode(registering(1)), later)
        assert admin.state.content() == before
        assert not admin.directory.servers
