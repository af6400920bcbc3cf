"""The one file that `snapshot save` writes and `snapshot inspect` reads.

    8 bytes   magic, the last of them the format's number
    4 bytes   length of the header, big-endian
    header    the snapshot's header as the replica wrote it: JSON, an object (docs/on-disk.md)
    data      the snapshot's data file, `size_bytes` long, whose SHA-256 is `sha256`

A file in the making is called `<name>.part`. It has the same form, so that a broken download goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode

MAGIC: Final = b"RVSNAP\x00\x01"
HEADER_BYTES_MAX: Final = 1 << 20
_READ_BYTES: Final = 1 << 20
_REQUIRED: Final[Mapping[str, type]] = {"cluster_id": str, "index": int, "term": int, "size_bytes": int, "sha256": str}


class SnapshotDamagedError(CommandError):
    """The file is not what was written, or not one of ours."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} {why}",
            code=ExitCode.DAMAGED,
            next_step="save the snapshot again with `ravelctl snapshot save`",
            reason="DAMAGED",
        )


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """`fields` is the whole header; fields that a later version adds are kept and shown."""

    raw: bytes
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes, path: Path) -> Self:
        """Raises SnapshotDamagedError unless it is a JSON object with the fields that every snapshot has."""
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError) as error:  # the second one for brackets in brackets
            raise SnapshotDamagedError(path, f"has a header that is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise SnapshotDamagedError(path, "has a header that is no JSON object")
        for name, kind in _REQUIRED.items():
            if not isinstance(fields.get(name), kind):
                raise SnapshotDamagedError(
                    path, f"has a header whose {name} is {fields.get(name)!r}, not of type {kind.__name__}"
                )
        return cls(raw, fields)

    @property
    def size_bytes(self) -> int:
        return int(self.fields["size_bytes"])

    @property
    def sha256(self) -> str:
        return str(self.fields["sha256"])

    @property
    def preamble(self) -> bytes:
        """Everything before the data."""
        return MAGIC + len(self.raw).to_bytes(4, "big") + self.raw


def read_header(stream: IO[bytes], path: Path) -> SnapshotHeader:
    """Leaves the stream at the first byte of the data. Raises SnapshotDamagedError."""
    if (magic := stream.read(len(MAGIC))) != MAGIC:
        known = magic[:6] == MAGIC[:6] and len(magic) == len(MAGIC)
        raise SnapshotDamagedError(
            path, f"is a snapshot of format {magic[-1]}, this program reads 1" if known else "is no ravel snapshot"
        )
    length = int.from_bytes(stream.read(4), "big")
    if not 0 < length <= HEADER_BYTES_MAX or len(raw := stream.read(length)) != length:
        raise SnapshotDamagedError(path, "ends within its header")
    return SnapshotHeader.parse(raw, path)


@dataclass(frozen=True, slots=True)
class Checked:
    """A snapshot file whose bytes were all read. `problem` is empty if they are what the header says."""

    header: SnapshotHeader
    sha256: str
    data_bytes: int
    problem: str


def check(path: Path) -> Checked:
    """Read a whole file and compare size and checksum. Raises SnapshotDamagedError for a bad header, OSError."""
    with path.open("rb") as stream:
        header = read_header(stream, path)
        digest, size = hashlib.sha256(), 0
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    found = digest.hexdigest()
    problem = ""
    if size != header.size_bytes:
        problem = f"has {size} bytes of data where its header says {header.size_bytes}"
    elif found != header.sha256:
        problem = f"has data of sha256 {found} where its header says {header.sha256}"
    return Checked(header, found, size, problem)


class PartFile:
    """A download in the making, beside its target. Durable and in place only after `finish`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.received = 0  # bytes of data
        self._digest = hashlib.sha256()
        self._header: SnapshotHeader | None = None
        self._stream: IO[bytes] | None = None

    def resume(self, sha256: str) -> int:
        """Take up a part of the same snapshot, if there is one. Returns how many bytes of data it has."""
        try:
            self._stream = self.path.open("r+b")
            header = read_header(self._stream, self.path)
        except (OSError, SnapshotDamagedError):
            self.close()
            return 0
        data_bytes = self.path.stat().st_size - len(header.preamble)
        if header.sha256 != sha256 or data_bytes > header.size_bytes:
            self.close()
            return 0
        self._header = header
        while chunk := self._stream.read(_READ_BYTES):
            self._digest.update(chunk)
            self.received += len(chunk)
        return self.received

    def begin(self, raw_header: bytes) -> None:
        """Start from the first byte. Nothing happens if the part was begun already."""
        if self._header is not None:
            return
        self._header = SnapshotHeader.parse(raw_header, self.target)
        self._stream = self.path.open("wb")
        self._stream.write(self._header.preamble)

    def append(self, data: bytes) -> None:
        if self._stream is None:
            raise SnapshotDamagedError(self.target, "came without a header")
        self._stream.write(data)
        self._digest.update(data)
        self.received += len(data)

    def finish(self) -> SnapshotHeader:
        """Verify, sync and move into place. Raises SnapshotDamagedError, and then nothing is left behind."""
        header = self._header
        if header is None or self._stream is None:
            raise SnapshotDamagedError(self.target, "came without a header")
        if self.received != header.size_bytes or self._digest.hexdigest() != header.sha256:
            self.close()
            self.path.unlink()
            why = f"was received damaged: {self.received} of {header.size_bytes} bytes, sha256 {self._digest.hexdigest()}"
            raise SnapshotDamagedError(self.target, why)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.close()
        self.path.replace(self.target)
        folder = os.open(self.target.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return header

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def write_snapshot(target: Path, raw_header: bytes, data: Path) -> None:
    """Make a snapshot file of a header and a data file that is what the header says. Atomic and durable. Raises OSError."""
    part = PartFile(target)
    try:
        part.begin(raw_header)
        with data.open("rb") as source:
            while chunk := source.read(_READ_BYTES):
                part.append(chunk)
        part.finish()
    except BaseException:
        part.close()
        part.path.unlink(missing_ok=True)
        raise
