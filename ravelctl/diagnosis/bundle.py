"""`doctor --bundle`: what somebody else needs to find out what is wrong, in one archive, without secrets and without user data.

    manifest.json              versions, when, by what command, and every part with its size, SHA-256 and whether it was cut
    doctor.txt, doctor.json    the findings
    settings.json              ravelctl's settings and where each comes from: paths of keys, never what is in them
    looks.json                 what became of each address
    daemons/N-NAME/            status.json, events.jsonl, store.json, snapshots.json, log.jsonl (entries without keys and values)
    directories/N.json         what each directory shows, and log.jsonl beside it
    metrics/N.txt              of the addresses that --metrics names

All lies in one folder of the archive. The file has mode 0600, and appears under its name only when it is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ravelctl.cli import dial
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import plain_mapping, rfc3339
from ravelctl.client.errors import RavelError
from ravelctl.commands.version import own_version
from ravelctl.store.log_entries import LogQuery
from ravelctl.store.log_source import LiveLog, LogSource, directory_log

if TYPE_CHECKING:
    from ravelctl.cli.app import App, Progress
    from ravelctl.diagnosis.seen import Door, Seen

FORMAT: Final = 1
FOLDER: Final = "ravel-doctor"
PART_BYTES_MAX: Final = 4 << 20
"""Of one part of the archive; a longer one is cut at the end of a line, and the manifest says so."""

BUNDLE_BYTES_MAX: Final = 64 << 20
"""Of all parts together, before they are compressed; what does not fit is left out, and the manifest says so."""

LOG_ENTRIES: Final = 200
"""The last so many of each log."""

METRICS_TIMEOUT_S: Final = 3.0
METRICS_MAX: Final = 16
"""Addresses of --metrics."""

_TYPES_WITHOUT_KEYS: Final = frozenset({"config", "noop", "allocate", "member", "damaged"})
"""Entries whose summaries name members and addresses, but no keys."""

_NO_KEYS: Final = "left out, since it may name keys: --with-keys keeps it"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive."""

    name: str
    data: bytes
    cut: bool


@dataclass(slots=True)
class Parts:
    """What goes into the archive, within its bounds."""

    made: list[Part]
    left_out: list[str]

    def text(self, name: str, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        cut = len(data) > PART_BYTES_MAX
        if cut:
            data = data[:PART_BYTES_MAX]
            data = data[: data.rfind(b"\n") + 1]
        if sum(len(part.data) for part in self.made) + len(data) > BUNDLE_BYTES_MAX:
            self.left_out.append(name)
        else:
            self.made.append(Part(name, data, cut))

    def values(self, name: str, values: Mapping[str, Any]) -> None:
        self.text(name, json.dumps(plain_mapping(values), indent=2) + "\n")

    def lines(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        self.text(name, "".join(json.dumps(plain_mapping(line)) + "\n" for line in lines))


def require_target(target: Path) -> None:
    """Before anything is asked: raises CommandError (2) where the archive cannot be put."""
    if target.exists():
        raise usage_error(f"{target} is there already", "name a file that is not there yet")
    if not target.absolute().parent.is_dir():
        raise usage_error(f"{target.absolute().parent} is no directory", "name a file in a directory that is there")


async def collect(
    app: App, seen: Seen, findings: Mapping[str, Any], told: str, metrics: Sequence[str], progress: Progress, *, with_keys: bool
) -> Parts:
    """Everything there is to gather. What cannot be had is named in its place, and ends nothing."""
    parts = Parts([], [])
    parts.text("doctor.txt", told if with_keys else _without_damaged_keys(told))
    parts.values("doctor.json", findings if with_keys else _findings_without_keys(findings))
    parts.values("settings.json", _settings(app))
    parts.lines("looks.json", [_look(door) for door in seen.doors])
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(dial.cluster(app))
        inspect = await stack.enter_async_context(dial.inspect(app))
        for number, door in enumerate(seen.doors, 1):
            if door.status is None:
                continue
            progress.update(door.address)
            folder = f"daemons/{number}-{_file_name(door.status.server.name)}"
            parts.values(f"{folder}/status.json", _message(door.status))
            parts.lines(f"{folder}/events.jsonl", await _all(_message(e) async for e in cluster.events(door.address)))
            if door.status.blank:
                continue
            for name, answer in (("store", inspect.store_stats(door.address)), ("snapshots", inspect.snapshots(door.address))):
                try:
                    parts.values(f"{folder}/{name}.json", _message(await answer))
                except RavelError as error:
                    parts.values(f"{folder}/{name}.json", {"error": error.message})
            parts.lines(f"{folder}/log.jsonl", await _log(LiveLog("", door.address, inspect), with_keys))
    for number, directory in enumerate(seen.directories, 1):
        damage = [asdict(found) if with_keys or found.code != "RV604" else {"code": found.code} for found in directory.damage]
        parts.values(f"directories/{number}.json", {**asdict(directory), "damage": damage})
        with suppress(CommandError):
            parts.lines(f"directories/{number}-log.jsonl", await _log(directory_log(directory.path), with_keys))
    for number, address in enumerate(metrics, 1):
        progress.update(address)
        parts.text(f"metrics/{number}.txt", await asyncio.to_thread(_metrics, address))
    return parts


def write(target: Path, parts: Parts) -> int:
    """The archive, beside its place, synced, renamed; returns its bytes. Raises CommandError, and then nothing is left behind."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w:gz") as archive:
                for part in (_manifest(parts), *parts.made):
                    _add(archive, part)
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        os.link(beside, target)  # unlike a rename it does not replace what has come meanwhile
        _sync_folder(target.absolute().parent)
    except OSError as error:
        raise CommandError(
            f"{target} cannot be written: {(error.strerror or str(error)).lower()}",
            code=ExitCode.NOT_ALLOWED if isinstance(error, PermissionError) else ExitCode.FAILED,
            next_step="name a file elsewhere; nothing was left behind",
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return size


def _add(archive: tarfile.TarFile, part: Part) -> None:
    entry = tarfile.TarInfo(f"{FOLDER}/{part.name}")
    entry.size, entry.mode, entry.mtime = len(part.data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(part.data))


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _manifest(parts: Parts) -> Part:
    values = {
        "format": FORMAT,
        "made_at": rfc3339(datetime.now(UTC)),
        "ravelctl": own_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "parts": [
            {"name": part.name, "bytes": len(part.data), "sha256": hashlib.sha256(part.data).hexdigest(), "cut": part.cut}
            for part in parts.made
        ],
        "left_out": parts.left_out,
    }
    return Part("manifest.json", (json.dumps(values, indent=2) + "\n").encode(), cut=False)


# --- the parts


def _settings(app: App) -> dict[str, Any]:
    """Which settings hold. A certificate's key is named by its path alone."""
    values = asdict(app.settings)
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {"settings": shown, "origins": dict(app.origins)}


def _look(door: Door) -> dict[str, Any]:
    values = asdict(replace(door, status=None))
    del values["status"]
    return {**values, "reach": door.reach.name.lower()}


def _message(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return dict(MessageToDict(message, preserving_proto_field_name=True))


async def _all(values: AsyncIterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All that come; where they break off the last one says why."""
    found: list[Mapping[str, Any]] = []
    try:
        found += [value async for value in values]
    except (RavelError, CommandError) as error:
        found.append({"error": error.message})
    return found


async def _log(source: LogSource, with_keys: bool) -> list[Mapping[str, Any]]:
    """The log's tail. The digest tells two entries apart without telling what they hold."""

    async def entries() -> AsyncIterator[Mapping[str, Any]]:
        async for part in source.parts(LogQuery(tail=True, limit=LOG_ENTRIES, digests=True)):
            for entry in part.entries:
                shown = with_keys or entry.type in _TYPES_WITHOUT_KEYS
                yield {
                    "index": entry.index,
                    "term": entry.term,
                    "type": entry.type,
                    "bytes": entry.size,
                    "digest": entry.digest.hex(),
                    **({"summary": entry.lines} if shown else {}),
                }

    return await _all(entries())


def _findings_without_keys(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Damage in the state may be told with the key that it is under."""
    told = [{**one, "message": _NO_KEYS, "seen": []} if one["code"] == "RV604" else one for one in findings["findings"]]
    return {**findings, "findings": told}


def _without_damaged_keys(told: str) -> str:
    """The same in the text: a finding of RV604 loses its sentence and its evidence."""
    return re.sub(r"(?m)^(RV604 [a-z]+: ).*\n(?:  seen: .*\n)*", rf"\g<1>{_NO_KEYS}\n", told)


def _file_name(text: str) -> str:
    """Fit for a name in the archive, whatever a daemon calls itself."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:63] or "unnamed"


def _metrics(address: str) -> str:
    """What an address of --metrics-listen shows, or why it shows nothing."""
    from http.client import HTTPConnection, HTTPException

    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host.strip("[]"), int(port), timeout=METRICS_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read(PART_BYTES_MAX).decode(errors="backslashreplace")
        return text if answer.status == 200 else f"# {address} answers {answer.status}\n"
    except (OSError, HTTPException) as error:
        return f"# {address} cannot be read: {error}\n"
    finally:
        connection.close()
