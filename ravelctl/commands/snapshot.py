"""`ravelctl snapshot`: whole states of the store in one file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import REPLICA, Effect, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text, printable, rfc3339, size_text
from ravelctl.config.settings import TRANSFER_TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from ravelctl.cli.app import Progress
    from ravelctl.client import InspectClient
    from ravelctl.store.snapshot_file import Checked, PartFile, SnapshotHeader
    from ravelpb.v1.inspect_pb2 import SnapshotInfo

RETRY_EVERY_S: Final = 0.5
PREFIXES: Final = 20
_replica_option = click.option(
    "--replica", type=REPLICA, help="Whose: a name or an id. [default: the first endpoint's that answers]"
)


@click.group("snapshot", cls=RavelGroup)
def command() -> None:
    """Save, list, inspect, verify and restore snapshots."""


_file_option = click.option("-f", "--file", "file", required=True, type=click.Path(dir_okay=False), help="Where to.")
_overwrite_option = click.option("--overwrite", is_flag=True, help="Replace FILE, if it is there, once the new one is whole.")


@command.command("save", effect=Effect.PLANS)
@_file_option
@_overwrite_option
@_replica_option
@pass_app
def save(app: App, file: str, overwrite: bool, replica: str | None) -> Work:
    """Save the state of the store into FILE, verified.

    The data comes from any replica that answers. A download that breaks off leaves FILE.part; the next one goes on from there.
    """
    _check_target(file, overwrite)
    return _plan_save(app, file, replica) if app.settings.dry_run else _save(app, file, replica)


def _check_target(file: str, overwrite: bool) -> None:
    """Raises CommandError (2) where FILE cannot be made, or is there and was not said to be replaced."""
    from pathlib import Path

    folder = Path(file).absolute().parent
    if not folder.is_dir():
        raise usage_error(f"there is no folder {folder}", "make it, or name another with --file")
    if not overwrite and Path(file).exists():
        raise usage_error(f"{file} is there already", "name another file, or have it replaced with --overwrite")


async def _plan_save(app: App, file: str, replica: str | None) -> View:
    """Whose state would be saved, how much there is of it, and how much room."""
    import os
    import shutil

    from ravelctl.cli import dial
    from ravelctl.cluster.sources import source

    chosen = await source(app, replica)
    async with dial.inspect(app) as client:
        stats = await client.store_stats(chosen.address)
    size = sum(env.used_bytes for env in stats.environments if env.name.startswith("state"))
    free = shutil.disk_usage(os.path.dirname(file) or ".").free
    data = {
        "file": file, "source": chosen.name, "index": U64(stats.header.index), "size_bytes_about": U64(size),
        "free_bytes": U64(free), "saved": False,
    }  # fmt: skip
    what = f"the state of {chosen.name} at index {stats.header.index} or later, about {size_text(size)}"
    room = f"{size_text(free)} are free there" + (": too little" if free < size else "")
    return View(
        kind="SnapshotSave",
        data=data,
        body=f"would save {what}, to {file}; {room}",
        names=(file,),
        code=ExitCode.REFUSED if free < size else ExitCode.DONE,
        notes=("dry run: nothing was changed",),
    )


async def _save(app: App, file: str, replica: str | None) -> View:
    from pathlib import Path

    from ravelctl.cli import dial
    from ravelctl.cluster.sources import source
    from ravelctl.store.snapshot_file import PartFile

    part = PartFile(Path(file))
    chosen = await source(app, replica)
    timeout_s = app.settings.wait_timeout_s(TRANSFER_TIMEOUT_S)
    try:
        async with dial.inspect(app) as client:
            with app.progress(f"snapshot of {chosen.name}:") as progress:
                progress.update("building")
                info = (await client.save_snapshot(chosen.address, timeout_s=timeout_s)).snapshot
                await _download(client, chosen.address, info, part, progress, timeout_s)
        header = part.finish()
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}", next_step="free some space, or name another file") from error
    finally:
        part.close()
    return View(
        kind="SnapshotSave",
        data={"file": file, "source": chosen.name, **_header_data(header)},
        body=f"{file}: index {info.index}, {count_text(info.keys, 'key')}, {size_text(info.size_bytes)}, sha256 {header.sha256}",
        names=(file,),
    )


async def _download(
    client: InspectClient, address: str, info: SnapshotInfo, part: PartFile, progress: Progress, timeout_s: float
) -> None:
    """Fetch all bytes; a connection that breaks is taken up again at the byte where it broke, until the time is up."""
    import asyncio

    from ravelctl.client.errors import LocalReason, RavelError

    deadline = time.monotonic() + timeout_s
    part.resume(info.sha256.hex())
    while True:
        try:
            async for piece in client.fetch_snapshot(address, info.name, part.received):
                if piece.header:
                    part.begin(piece.header)
                part.append(piece.data)
                progress.amount(part.received, info.size_bytes, f"{size_text(part.received)} of {size_text(info.size_bytes)}")
                if time.monotonic() > deadline:
                    raise _too_slow(part, info, timeout_s)
            return
        except RavelError as error:
            if error.reason is not LocalReason.UNREACHABLE or time.monotonic() > deadline:
                raise
            await asyncio.sleep(RETRY_EVERY_S)


def _too_slow(part: PartFile, info: SnapshotInfo, timeout_s: float) -> CommandError:
    return CommandError(
        f"{part.received} of {info.size_bytes} bytes came within {timeout_s:g}s",
        code=ExitCode.TIMED_OUT,
        next_step=f"repeat the command with a longer --timeout: it goes on from {part.path}",
    )


@command.command("list")
@_replica_option
@click.option("--data-dir", type=click.Path(), help="Those in this directory, instead of asking a daemon.")
@pass_app
def list_snapshots(app: App, replica: str | None, data_dir: str | None) -> View | Work:
    """List the snapshot files that a replica keeps, newest first."""
    if data_dir is None:
        return _list(app, replica)
    if replica is not None:
        raise usage_error("--data-dir and --replica exclude each other", "give one of them")
    from pathlib import Path

    from ravelctl.offline.directory import look

    files = look(Path(data_dir)).snapshots
    found = [
        _info_data(file.path.name.removesuffix(".mdb"), file.header, file.header.sha256)
        for file in files
        if file.header is not None
    ]
    problems = tuple(f"{file.path.name}: {file.problem}" for file in files if file.problem)
    return _list_view(data_dir, found, problems)


async def _list(app: App, replica: str | None) -> View:
    from ravelctl.cli import dial
    from ravelctl.cluster.sources import source

    chosen = await source(app, replica)
    async with dial.inspect(app) as client:
        infos = (await client.snapshots(chosen.address)).snapshots
    return _list_view(chosen.name, [_info_data(info.name, info, info.sha256.hex()) for info in infos], ())


def _list_view(source: str, found: list[dict[str, Any]], problems: tuple[str, ...]) -> View:
    return View(
        kind="SnapshotList",
        data={"source": source, "snapshots": found, "problems": list(problems)},
        body=Table(
            columns=columns("INDEX", "TERM", "KEYS", "SIZE", "TAKEN", "BY", "+NAME", "+SHA256"),
            rows=tuple(
                (
                    str(int(info["index"])),
                    str(int(info["term"])),
                    str(int(info["keys"])),
                    size_text(info["size_bytes"]),
                    info["taken_at"],
                    info["taken_by"] or ABSENT,
                    info["name"],
                    info["sha256"],
                )
                for info in found
            ),
            below=problems if found or problems else (f"{source} keeps no snapshots",),
        ),
        names=tuple(info["name"] for info in found),
        code=ExitCode.DAMAGED if problems else ExitCode.DONE,
    )


def _info_data(name: str, info: Any, sha256: str) -> dict[str, Any]:
    """Of a SnapshotInfo of the wire, or of a header in a directory: their fields have the same names."""
    return {
        "name": name,
        "cluster": info.cluster_id,
        "cluster_name": info.cluster_name,
        "index": U64(info.index),
        "term": U64(info.term),
        "revision": U64(info.revision),
        "voters": [U64(v) for v in info.voters],
        "learners": [U64(v) for v in info.learners],
        "keys": U64(info.keys),
        "size_bytes": U64(info.size_bytes),
        "sha256": sha256,
        "taken_at": _moment(info.taken_at_ms),
        "taken_by": info.taken_by,
        "format": info.format,
    }


def _file(word: str) -> Path:
    """A snapshot file that is there. Raises CommandError."""
    from pathlib import Path

    path = Path(word)
    if not path.is_file():
        raise usage_error(f"{path} is {'not a file' if path.exists() else 'not there'}", "name a file that `snapshot save` wrote")
    return path


@command.command("inspect", local=True)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--separator", default="/", show_default=True, help="What ends the first part of a key.")
@click.option("--limit", type=Whole(1), default=PREFIXES, show_default=True, help="Prefixes shown, the largest first.")
@pass_app
def inspect(app: App, file: str, separator: str, limit: int) -> View:
    """Tell what a saved FILE holds, by the first part of the keys, and verify its checksum. Exits 8 if it is damaged.

    Nothing is dialled.
    """
    from ravelctl.store.snapshot_file import SnapshotDamagedError, check

    path = _file(file)
    try:
        checked = check(path)
    except OSError as error:
        raise usage_error(f"cannot read {file}: {error.strerror}") from error
    if checked.problem:
        raise SnapshotDamagedError(path, checked.problem)
    from ravelctl.offline.snapshots import inspect as count

    rows, names = count(path, separator)
    return View(
        kind="Snapshot",
        data={
            "file": file,
            **_header_data(checked.header),
            "checksum": "OK",
            "prefixes": [{"prefix": row.prefix, "keys": U64(row.keys), "bytes": U64(row.bytes)} for row in rows],
        },
        body=Table(
            columns=columns("PREFIX", "KEYS", "BYTES"),
            rows=tuple((printable(row.prefix.encode()), f"{row.keys:,}", size_text(row.bytes)) for row in rows[:limit]),
            above=tuple(_described(checked, names)),
            below=(f"{len(rows) - limit} more, smaller ones: see --limit",) if len(rows) > limit else (),
        ),
        names=(file,),
    )


def _described(checked: Checked, names: dict[int, str]) -> list[str]:
    fields = checked.header.fields
    voters = " ".join(names.get(voter, str(voter)) for voter in fields.get("voters", ())) or ABSENT
    name = fields.get("cluster_name", "")
    by, taken = fields.get("taken_by") or ABSENT, _moment(fields.get("taken_at_ms", 0))
    return [
        f"cluster   {name} {fields['cluster_id'][:8]}    taken by {by}, {taken}",
        f"position  index {fields['index']} term {fields['term']}, voters {voters}",
        f"contents  {fields.get('keys', 0):,} keys, {size_text(checked.data_bytes)}",
        f"checksum  sha256 {checked.sha256[:4]}…{checked.sha256[-4:]} OK",
    ]


@command.command("verify", local=True)
@click.argument("file", type=click.Path(dir_okay=False))
@pass_app
def verify(app: App, file: str) -> View:
    """Read everything in a saved FILE: size and sha256, every record, and that its header tells the truth. Exits 8 if not."""
    path = _file(file)
    from ravelctl.offline.snapshots import verify as read

    with app.progress(f"verifying {file}:") as progress:
        done, problems = read(path, progress)
    summary = f"{file}: {count_text(done, 'record')} read, {count_text(len(problems), 'problem')}"
    return View(
        kind="SnapshotCheck",
        data={"file": file, "ok": not problems, "records": U64(done), "problems": problems},
        body=Table(columns=columns("PROBLEM"), rows=tuple((problem,) for problem in problems), below=(summary,)),
        names=(file,),
        code=ExitCode.DAMAGED if problems else ExitCode.DONE,
    )


@command.command("restore", effect=Effect.PLANS, local=True)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--data-dir", "target", required=True, type=click.Path(), help="The data directory to make; it must be free.")
@click.option("--name", default="n1", show_default=True, help="Name of the new cluster's first replica.")
@click.option("--cluster-name", default="", help="Name of the new cluster. [default: the old one's]")
@pass_app
def restore(app: App, file: str, target: str, name: str, cluster_name: str) -> View:
    """Make the data directory of a new cluster of one out of a saved FILE.

    It has a new cluster id and its revisions jump, so that no client, cache or member of the old cluster takes it for that one.
    Start a daemon in it, and let others join.
    """
    from pathlib import Path

    from ravelctl.cluster.founded import founded_view
    from ravelctl.offline.snapshots import restore as make

    if app.settings.dry_run:
        return _plan_restore(_file(file), target, name, cluster_name)
    made = make(app, _file(file), Path(target), name, cluster_name)
    return founded_view(
        "SnapshotRestore",
        target,
        made.identity,
        made.upto.index,
        made.at.term,
        made.at.index,
        made.revision,
        made.keys,
        admin=made.admin,
    )


def _plan_restore(file: Path, target: str, name: str, cluster_name: str) -> View:
    from pathlib import Path

    from ravelctl.offline.snapshot_plans import plan_restore

    plan = plan_restore(file, Path(target))
    fields = plan.header.fields
    cluster = cluster_name or fields.get("cluster_name", "")
    short = plan.free_bytes < plan.size_bytes
    room = f"{size_text(plan.free_bytes)} are free there" + (": too little" if short else "")
    at, revision = plan.start.at, plan.start.revision
    position = f"at least entry {at.index} of term {at.term}, revision {revision}: above all that the old cluster reported"
    data = {
        "data_dir": target,
        "from_cluster": fields["cluster_id"],
        "cluster_name": cluster,
        "name": name,
        "snapshot_index": U64(fields["index"]),
        "revision": U64(plan.start.revision),
        "term": U64(plan.start.at.term),
        "index": U64(plan.start.at.index),
        "keys": U64(fields.get("keys", 0)),
        "size_bytes": U64(plan.size_bytes),
        "free_bytes": U64(plan.free_bytes),
        "restored": False,
    }
    return View(
        kind="SnapshotRestore",
        data=data,
        body="\n".join(
            [
                f"would make {target}, and nothing else; {room}",
                f"cluster   {cluster}, with a new id in place of {fields['cluster_id'][:8]}",
                f"replica   {name}, the only one; all members of the old cluster marked removed",
                f"position  {position}",
                f"contents  {count_text(fields.get('keys', 0), 'key')}, {size_text(plan.size_bytes)}",
            ]
        ),
        names=(target,),
        code=ExitCode.REFUSED if short else ExitCode.DONE,
        notes=("dry run: nothing was changed",),
    )


@command.command("at", effect=Effect.PLANS, local=True)
@click.option("--index", required=True, type=Whole(1), help="The last entry whose effects it is to have.")
@click.option("--data-dir", required=True, type=click.Path(), help="Whose log, and whose state or snapshots.")
@click.option("--from", "start", type=click.Path(dir_okay=False), help="Begin with this snapshot file instead of one there.")
@_file_option
@_overwrite_option
@pass_app
def at(app: App, index: int, data_dir: str, start: str | None, file: str, overwrite: bool) -> View:
    """Make a snapshot FILE of the state as it was right after entry N: from an older state, and the log after that.

    How far back that goes depends on the oldest snapshot that is kept and on how much of the log is.
    """
    from pathlib import Path

    from ravelctl.offline.snapshots import at as make

    _check_target(file, overwrite)
    begin = _file(start) if start else None
    if app.settings.dry_run:
        return _plan_at(index, Path(data_dir), begin, file)
    made = make(app, Path(data_dir), index, begin, Path(file))
    header = made.header
    keys, size = count_text(header.keys, "key"), size_text(header.size_bytes)
    data = {"file": file, "index": U64(index), "time": _entry_time(made.time_ms), "from": made.source}
    return View(
        kind="SnapshotAt",
        data={**data, "keys": U64(header.keys), "sha256": header.sha256},
        body=f"{file}: {_entry_told(index, made.time_ms)}, {keys}, {size}, made of {made.source} and the log",
        names=(file,),
        notes=() if made.committed else (_not_committed(index),),
    )


def _plan_at(index: int, data_dir: Path, start: Path | None, file: str) -> View:
    from pathlib import Path

    from ravelctl.offline.snapshot_plans import plan_at

    plan = plan_at(data_dir, index, start, Path(file))
    more = f"{count_text(plan.entries, 'entry', 'entries')} of the log after it ({size_text(plan.entry_bytes)})"
    data = {"file": file, "index": U64(index), "time": _entry_time(plan.time_ms), "from": plan.source}
    dry = "dry run: nothing was changed"
    return View(
        kind="SnapshotAt",
        data={**data, "from_index": U64(plan.source_index), "entries": U64(plan.entries), "saved": False},
        body=f"would make {file} of {plan.source}, which is at index {plan.source_index}, and {more}, up to "
        f"{_entry_told(index, plan.time_ms)}",
        names=(file,),
        notes=(dry,) if plan.committed else (_not_committed(index), dry),
    )


def _entry_time(time_ms: int) -> str | None:
    from ravelctl.store.log_entries import time_text

    return time_text(time_ms) if time_ms else None


def _entry_told(index: int, time_ms: int) -> str:
    return f"index {index}" + (f" of {_entry_time(time_ms)}" if time_ms else "")


def _not_committed(index: int) -> str:
    return f"entry {index} is not known to be committed there: the cluster may have another in its place"


def _header_data(header: SnapshotHeader) -> dict[str, Any]:
    """The header, with numbers that may be large as such, and the time as a time."""

    def value(name: str, raw: Any) -> Any:
        if isinstance(raw, list):
            return [value(name, part) for part in raw]
        return U64(raw) if type(raw) is int and name != "format" else raw

    data = {name: value(name, raw) for name, raw in header.fields.items() if name != "taken_at_ms"}
    return {**data, "taken_at": _moment(header.fields.get("taken_at_ms", 0))}


def _moment(ms: int) -> str:
    from datetime import UTC, datetime

    return rfc3339(datetime.fromtimestamp(ms // 1000, UTC)) if ms else ABSENT
