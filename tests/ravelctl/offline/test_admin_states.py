"""The data directory of an admin server, read without a daemon: it is checked, brought on and restored as what it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ravel_node.admin.codec import encode
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.model import ClusterNumber, Directory
from ravel_node.admin.records import cluster_key, server_key
from ravel_node.machine import envelope
from ravel_node.machine.kv import KVMachine
from ravel_node.storage.store import open_store
from tests.admin.helpers import hex_id, registering
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.offline.support import CLUSTER, OPTIONS, edit_record, make, puts
from tests.ravelctl.offline.test_snapshots import YEAR_2026_US


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six servers have registered; two of them only as far as the log goes."""
    entries = [[envelope.directory(encode(registering(number)))] for number in range(1, 7)]
    return make(tmp_path / "a1", entries, unapplied=2, machine=DirectoryMachine())


def content(path: Path) -> Directory:
    """What the directory of a daemon says, opened as one opens it."""

    async def read() -> Directory:
        store = await open_store(path, OPTIONS)
        machine = DirectoryMachine()
        machine.open(store.reader())
        await store.close()
        return machine.directory

    return asyncio.run(read())


def test_it_is_checked(ctl: Ctl, path: Path) -> None:
    assert ctl("store", "check", "--data-dir", path).code == 0
    edit_record(path, "directory", server_key(hex_id(2)), lambda record: record.replace(b'"cluster":1', b'"cluster":7'))
    ran = ctl("store", "check", "--data-dir", path)
    assert (ran.code, "names cluster 7, which is not there" in ran.out) == (8, True)


def test_what_cannot_be_read_is_told(ctl: Ctl, path: Path) -> None:
    edit_record(path, "directory", cluster_key(ClusterNumber(1)), lambda record: record.replace(b'"term"', b'"time"'))
    ran = ctl("store", "check", "--data-dir", path)
    assert (ran.code, "it has not the fields of a ClusterEntry" in ran.out) == (8, True)


def test_a_directory_in_a_state_of_keys_is_found(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(1, 3))
    edit_record(path, "directory", server_key(hex_id(2)), lambda record: b"\x01{}")
    ran = ctl("store", "check", "--data-dir", path)
    assert (ran.code, "no admin group's" in ran.out) == (8, True)


def test_commands_are_shown(ctl: Ctl, path: Path) -> None:
    ran = ctl("log", "show", "--data-dir", path)
    assert ran.code == 0, ran.err
    assert "register format=3" in ran.out
    assert "name=n6" in ran.out


def test_a_new_admin_group_is_made_of_it(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    ran = ctl("recover", "apply", path, "--to", target, "--yes", "--confirm", CLUSTER)
    assert ran.code == 0, ran.err
    assert f"ravel_node admin --data-dir {target}" in ran.out
    found = content(target)
    assert sorted(found.servers) == [hex_id(number) for number in range(1, 7)]
    # What the old group may have done after this state, of which its clusters know, must not look newer than what this one does.
    assert found.slot_map.version > YEAR_2026_US
    assert found.last_move > (YEAR_2026_US // 100) << 16
    assert set(found.slot_map.owners) == {1}
    assert ctl("store", "check", "--data-dir", target).code == 0


def test_the_state_as_of_an_entry_and_a_group_restored_from_it(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    file, target = tmp_path / "at.rvsnap", tmp_path / "restored"
    assert ctl("snapshot", "at", "--index", 6, "--data-dir", path, "-f", file).code == 0
    assert ctl("snapshot", "verify", file).code == 0
    assert ctl("snapshot", "restore", file, "--data-dir", target, "--name", "b1").code == 0
    assert len(content(target).servers) == 5


def test_another_machine_does_not_open_it(path: Path) -> None:
    async def open_as_keys() -> None:
        store = await open_store(path, OPTIONS)
        try:
            KVMachine().open(store.reader())
        finally:
            await store.close()

    with pytest.raises(Exception, match="start it with `ravel_node admin`"):
        asyncio.run(open_as_keys())
