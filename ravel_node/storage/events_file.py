"""A small journal that keeps the newest records and may lose them: not one byte of what Raft promises stands here.

Two files. `current` is appended to; when it holds `RECORDS_MAX` records it becomes `previous`, and what that was is gone. So at
least the newest `RECORDS_MAX` are there, and at most twice as many.

    file    := "ravel events 1\\n" record*
    record  := length:u32 crc32c:u32 payload            big-endian, the checksum is the payload's

Nothing is synced: a record survives the end of the process at once and a power cut once the system has written it, and no save of
the log ever waits for it. A record that a crash cut short is cut off; a file that holds anything else is set aside under
`NAME.damaged`, and what could be read of it goes on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from crc32c import crc32c

from ravel_node.storage import files

HEAD: Final = b"ravel events 1\n"
CURRENT: Final = "current"
PREVIOUS: Final = "previous"
DAMAGED: Final = ".damaged"

RECORDS_MAX: Final = 1_000
RECORD_BYTES_MAX: Final = 64 << 10
_FILE_BYTES_MAX: Final = len(HEAD) + RECORDS_MAX * (RECORD_BYTES_MAX + 8)

_PREFIX: Final = struct.Struct(">II")


class EventsFile:
    """The journal in one directory. Every method blocks: call them on one thread at a time. OSError passes through."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._records = 0  # in `current`
        self._size = 0  # of `current`: where the next record begins

    def load(self) -> tuple[list[bytes], list[str]]:
        """Open it for appending. The payloads that are kept, oldest first, and a sentence about each file that was not whole."""
        files.make_directory(self._directory)
        problems: list[str] = []
        old = self._read(PREVIOUS, problems)
        new = self._read(CURRENT, problems)
        if problems or not (self._directory / CURRENT).exists():
            self._rewrite(CURRENT, new)
        self._open()
        self._records = len(new)
        return [*old, *new][-RECORDS_MAX:], problems

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add records. After an OSError none of them is there, and later ones can be added."""
        for start in range(0, len(payloads), RECORDS_MAX):
            self._append(payloads[start : start + RECORDS_MAX])

    def _append(self, payloads: Sequence[bytes]) -> None:
        if self._records + len(payloads) > RECORDS_MAX:
            self._rotate()
        if self._file is None:
            self._open()
        data = b"".join(map(_record, payloads))
        try:
            self._write(data)
        except OSError:
            self._cut()
            raise
        self._size += len(data)
        self._records += len(payloads)

    def close(self) -> None:
        """Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- one file

    def _read(self, name: str, problems: list[str]) -> list[bytes]:
        """The good records from the beginning. A file that is damaged is set aside; one that was cut short is not."""
        path = self._directory / name
        try:
            with path.open("rb") as file:
                data = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return []
        payloads, end, whole = _parse(data)
        if whole or (name == CURRENT and _is_cut_short(data, end)):
            if end < len(data):
                os.truncate(path, end)
            return payloads
        path.replace(path.with_name(name + DAMAGED))
        if name == PREVIOUS and payloads:
            self._rewrite(name, payloads)
        problems.append(
            f"{path} is damaged at byte {end}: it was set aside as {name}{DAMAGED}; {len(payloads)} records of it are kept"
        )
        return payloads

    def _rewrite(self, name: str, payloads: Sequence[bytes]) -> None:
        files.write_file(self._directory / name, HEAD + b"".join(map(_record, payloads)))

    def _open(self) -> None:
        path = self._directory / CURRENT
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, files.FILE_MODE), "ab", 0)
        self._size = os.fstat(self._file.fileno()).st_size
        if self._size == 0:
            self._write(HEAD)
            self._size = len(HEAD)

    def _rotate(self) -> None:
        self.close()
        (self._directory / CURRENT).replace(self._directory / PREVIOUS)
        self._records = 0
        self._open()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise OSError("the journal of events is closed")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _cut(self) -> None:
        """Take back what a failed write has left of its records."""
        if self._file is not None:
            os.ftruncate(self._file.fileno(), self._size)


def _record(payload: bytes) -> bytes:
    return _PREFIX.pack(len(payload), crc32c(payload)) + payload


def _parse(data: bytes) -> tuple[list[bytes], int, bool]:
    """The good records from the beginning, where they end, and whether that is the end."""
    payloads: list[bytes] = []
    if not data.startswith(HEAD):
        return payloads, 0, not data
    at = len(HEAD)
    while at + _PREFIX.size <= len(data):
        length, checksum = _PREFIX.unpack_from(data, at)
        payload = data[at + _PREFIX.size : at + _PREFIX.size + length]
        if not 0 < length <= RECORD_BYTES_MAX or len(payload) < length or crc32c(payload) != checksum:
            break
        payloads.append(payload)
        at += _PREFIX.size + length
    return payloads, at, at == len(data)


def _is_cut_short(data: bytes, end: int) -> bool:
    """Whether what follows the good records is the beginning of one more."""
    rest = data[end:]
    if end == 0:
        return HEAD.startswith(data)
    if len(rest) < _PREFIX.size:
        return True
    length = int(_PREFIX.unpack_from(rest)[0])
    return 0 < length <= RECORD_BYTES_MAX and len(rest) < _PREFIX.size + length
