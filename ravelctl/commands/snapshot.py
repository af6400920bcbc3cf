"""`ravelctl snapshot`: whole states of the store in one file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.app import App
from ravelctl.command import Effect, RavelGroup, Work, pass_app
from ravelctl.config import TRANSFER_TIMEOUT_S
from ravelctl.errors import CommandError, usage_error
from ravelctl.exit_codes import ExitCode
from ravelctl.output import ABSENT, U64, Table, View, columns, count_text, rfc3339, size_text

if TYPE_CHECKING:
    from ravelctl.app import Progress
    from ravelctl.client import InspectClient
    from ravelctl.snapshot_file import Checked, PartFile, SnapshotHeader
    from ravelpb.v1.inspect_pb2 import SnapshotInfo

RETRY_EVERY_S: Final = 0.5
_replica_option = click.option("--replica", help="Whose: a name or an id. [default: the first endpoint's that answers]")


@click.group("snapshot", cls=RavelGroup)
def command() -> None:
    """Save, list and inspect snapshots."""


@command.command("save", effect=Effect.CHANGES)
@click.option("-f", "--file", "file", required=True, type=click.Path(dir_okay=False), help="Where to; replaced if it is there.")
@_replica_option
@pass_app
def save(app: App, file: str, replica: str | None) -> Work:
    """Save the state of the store into FILE, verified.

    The data comes from any replica that answers. A download that breaks off leaves FILE.part; the next one goes on from there.
    """
    from pathlib import Path

    folder = Path(file).absolute().parent
    if not folder.is_dir():
        raise usage_error(f"there is no folder {folder}", "make it, or name another with --file")
    return _save(app, file, replica)


async def _save(app: App, file: str, replica: str | None) -> View:
    from pathlib import Path

    from ravelctl import dial
    from ravelctl.snapshot_file import PartFile
    from ravelctl.sources import source

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
@pass_app
async def list_snapshots(app: App, replica: str | None) -> View:
    """List the snapshot files that a replica keeps, newest first."""
    from ravelctl import dial
    from ravelctl.sources import source

    chosen = await source(app, replica)
    async with dial.inspect(app) as client:
        found = (await client.snapshots(chosen.address)).snapshots
    return View(
        kind="SnapshotList",
        data={"source": chosen.name, "snapshots": [_info_data(info) for info in found]},
        body=Table(
            columns=columns("INDEX", "TERM", "KEYS", "SIZE", "TAKEN", "BY", "+NAME", "+SHA256"),
            rows=tuple(
                (
                    str(info.index),
                    str(info.term),
                    str(info.keys),
                    size_text(info.size_bytes),
                    _moment(info.taken_at_ms),
                    info.taken_by or ABSENT,
                    info.name,
                    info.sha256.hex(),
                )
                for info in found
            ),
            below=() if found else (f"{chosen.name} keeps no snapshots",),
        ),
        names=tuple(info.name for info in found),
    )


def _info_data(info: SnapshotInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "cluster": info.cluster_id,
        "cluster_name": info.cluster_name,
        "index": U64(info.index),
        "term": U64(info.term),
        "revision": U64(info.revision),
        "voters": [U64(v) for v in info.voters],
        "learners": [U64(v) for v in info.learners],
        "keys": U64(info.keys),
        "size_bytes": U64(info.size_bytes),
        "sha256": info.sha256.hex(),
        "taken_at": _moment(info.taken_at_ms),
        "taken_by": info.taken_by,
        "format": info.format,
    }


@command.command("inspect")
@click.argument("file", type=click.Path(dir_okay=False))
@pass_app
def inspect(app: App, file: str) -> View:
    """Tell what a saved FILE holds, and verify its checksum. Exits 8 if it is damaged. Nothing is dialled."""
    from pathlib import Path

    from ravelctl.snapshot_file import SnapshotDamagedError, check

    try:
        checked = check(Path(file))
    except OSError as error:
        raise usage_error(f"cannot read {file}: {error.strerror}") from error
    if checked.problem:
        raise SnapshotDamagedError(Path(file), checked.problem)
    return View(
        kind="Snapshot",
        data={"file": file, **_header_data(checked.header), "checksum": "OK"},
        body=_described(checked),
        names=(file,),
    )


def _described(checked: Checked) -> str:
    fields = checked.header.fields
    voters = " ".join(map(str, fields.get("voters", ()))) or ABSENT
    name = fields.get("cluster_name", "")
    by, taken = fields.get("taken_by") or ABSENT, _moment(fields.get("taken_at_ms", 0))
    return "\n".join(
        [
            f"cluster   {name} {fields['cluster_id'][:8]}    taken by {by}, {taken}",
            f"position  index {fields['index']} term {fields['term']}, voters {voters}",
            f"contents  {fields.get('keys', 0):,} keys, {size_text(checked.data_bytes)}",
            f"checksum  sha256 {checked.sha256[:4]}…{checked.sha256[-4:]} OK",
        ]
    )


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
