"""The data directory: who may open it, and what is taken for one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from ravel_node.storage import files
from ravel_node.storage.base import DamagedError, DirectoryInUseError, FormatError, Save, StoreError
from ravel_node.storage.directory import Presence, next_folder, set_aside
from ravel_node.storage.store import StoreOptions, open_store
from tests.storage.support import NEVER, append, apply, bootstrap, contents, entries, hard_state


async def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where"
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, 2)
    apply(store, 2, {b"a": b"1"})
    await store.build_snapshot()
    await store.close()
    assert (path / "FORMAT").read_text() == "ravel 2\n"
    for each in (path, *path.rglob("*")):
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each


HOLDER: Final = """
import asyncio, sys
from pathlib import Path
from ravel_node.storage.store import StoreOptions, open_store

async def main():
    await open_store(Path(sys.argv[1]), StoreOptions())
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def holder_of(path: Path) -> subprocess.Popen[bytes]:
    """A process that has this directory open."""
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'protos'}{os.pathsep}{root}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


async def test_an_open_directory_is_refused_in_this_process_and_in_another(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "d", NEVER)
    with pytest.raises(DirectoryInUseError, match=f"process {os.getpid()} "):
        await open_store(tmp_path / "d", NEVER)
    with holder_of(tmp_path / "e") as process:
        with pytest.raises(DirectoryInUseError, match=f"process {process.pid} "):
            await open_store(tmp_path / "e", NEVER)
        process.kill()
    await (await open_store(tmp_path / "e", NEVER)).close()  # the lock died with its holder
    await store.close()
    await (await open_store(tmp_path / "d", NEVER)).close()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ravel 3\n", "format 3, and this version reads up to 2: start the version that wrote it, or a later one"),
        ("ravel 1\n", "format 1, and this version reads 2, in which keys with braces have other slots"),
    ],
)
async def test_another_format_is_refused(tmp_path: Path, line: str, why: str) -> None:
    await (await open_store(tmp_path / "d", NEVER)).close()
    (tmp_path / "d" / "FORMAT").write_text(line)
    with pytest.raises(FormatError, match=why):
        await open_store(tmp_path / "d", NEVER)
    (tmp_path / "d" / "FORMAT").write_text("ravel 2\n")
    await (await open_store(tmp_path / "d", NEVER)).close()


@pytest.mark.parametrize("line", ["", "ravel\n", "ravel 1", "something else\n", "ravel -1\n", "\xff\xfe"])
async def test_a_format_file_that_is_not_ours_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "FORMAT").write_text(line, "latin-1")
    with pytest.raises(FormatError, match="no data directory of ravel"):
        await open_store(tmp_path, NEVER)
    assert names(tmp_path) == ["FORMAT"]


async def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear all")
    with pytest.raises(FormatError, match=r"'letters.txt'"):
        await open_store(tmp_path, NEVER)
    assert names(tmp_path) == ["letters.txt"]
    with pytest.raises(StoreError, match="not a directory"):
        await open_store(tmp_path / "letters.txt", NEVER)


async def test_an_empty_directory_of_a_fresh_file_system_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    await (await open_store(tmp_path, NEVER)).close()


async def test_a_missing_state_directory_is_named(tmp_path: Path) -> None:
    await (await open_store(tmp_path / "d", NEVER)).close()
    shutil.rmtree(tmp_path / "d" / "state-1")
    with pytest.raises(DamagedError, match="state-1 is missing"):
        await open_store(tmp_path / "d", NEVER)


async def test_a_lost_raft_folder_does_not_make_a_blank_server(tmp_path: Path) -> None:
    """Under its old cluster's eyes it would be a replica that forgot its vote."""
    store = await open_store(tmp_path / "d", NEVER)
    await bootstrap(store)
    await store.close()
    shutil.rmtree(tmp_path / "d" / "raft")
    with pytest.raises(DamagedError, match="identity is damaged: it is missing"):
        await open_store(tmp_path / "d", NEVER)


async def prepared(path: Path) -> None:
    """A first replica with entries 2 to 9, applied and flushed up to 6; `path`-old is how it stood at 4."""
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await store.save([Save(entries(2, 9), hard_state(1, 6))])
    for index in range(2, 5):
        apply(store, index, {b"k": b"%d" % index})
    await store.close()
    shutil.copytree(path, path.with_name(path.name + "-old"))
    store = await open_store(path, NEVER)
    for index in range(5, 7):
        apply(store, index, {b"k": b"%d" % index})
    await store.flush()
    await store.compact(hard_state(1, 6).commit)
    await store.close()


def put_back(path: Path, folder: str) -> None:
    """As if that folder alone were restored from an older copy."""
    shutil.rmtree(path / folder)
    shutil.copytree(path.with_name(path.name + "-old") / folder, path / folder)


async def test_an_old_state_beside_a_newer_log_is_refused(tmp_path: Path) -> None:
    await prepared(tmp_path / "d")
    put_back(tmp_path / "d", "state-2")
    with pytest.raises(DamagedError, match="state-2 ends at entry 4, and the log in raft begins after 6"):
        await open_store(tmp_path / "d", NEVER)


async def test_an_old_log_beside_a_newer_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    await prepared(path)
    put_back(path, "raft")
    store = await open_store(path, NEVER)  # these two still fit: the old log has all that the state holds
    assert contents(store) == [(b"k", b"6")]
    await append(store, 5, 5, term=2)  # but this one does not
    await store.close()
    with pytest.raises(DamagedError, match="holds entry 6, and the log in raft ends at 5"):
        await open_store(path, NEVER)
    put_back(path, "raft")
    store = await open_store(path, NEVER)
    await append(store, 5, 8, term=2)
    await store.close()
    with pytest.raises(DamagedError, match="entry 6 of term 1, and in raft it is of term 2"):
        await open_store(path, NEVER)


async def test_a_directory_that_is_taken_away_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    path, aside = tmp_path / "n1", tmp_path / "aside"
    store = await open_store(path, NEVER)
    try:
        await bootstrap(store)
        presence = Presence(path)
        assert presence.missing() is None
        path.rename(aside)
        assert presence.missing() == path / "LOCK"
        aside.rename(path)
        assert presence.missing() is None, "it is back, and is the same"
        shutil.copytree(path, aside)
        shutil.rmtree(path / "raft")
        assert presence.missing() == path / "raft" / "data.mdb"
        shutil.copytree(aside / "raft", path / "raft")
        assert presence.missing() == path / "raft" / "data.mdb", "a copy under the name is not what is open"
    finally:
        await store.close()


async def test_data_is_set_aside_and_the_directory_can_be_filled_again(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, 2)
    apply(store, 2, {b"a": b"1"})
    await store.build_snapshot()
    before = store.identity
    with pytest.raises(DirectoryInUseError):
        set_aside(path, next_folder(path))
    await store.close()
    for number in (1, 2):
        assert next_folder(path) == f"old-{number}"
        set_aside(path, f"old-{number}")
        store = await open_store(path, StoreOptions())
        assert store.identity.blank
        assert store.identity.server_id != before.server_id
        assert (store.boot.number, dict(store.peer_marks)) == (0, {})
        await store.close()
    assert sorted(each.name for each in (path / "old-1").iterdir()) == ["incoming", "raft", "snapshots", "state-2"]


@pytest.mark.parametrize("moved", range(5))
async def test_a_crash_while_data_is_set_aside_leaves_the_old_identity_or_a_blank_one(tmp_path: Path, moved: int) -> None:
    path = tmp_path / "n1"
    store = await open_store(path, NEVER)
    await bootstrap(store)
    before = store.identity
    await store.close()
    steps = 0

    real = files.rename

    def rename(source: Path, target: Path) -> None:
        nonlocal steps
        if steps == moved:
            raise KeyboardInterrupt
        steps += 1
        real(source, target)

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(files, "rename", rename)
        set_aside(path, "old-1")
    store = await open_store(path, StoreOptions())
    assert store.identity == before if moved == 0 else store.identity.blank
    await store.close()
