"""Recordings of a cluster: what `--record` and `ravelctl record` write and `--replay` plays.

A recording holds the reports that an observer was given, with their times, so that playing it makes the same pictures again.

    file      = "ravel recording\\n", u16 version, u32 length, header (JSON), blocks
    block     = kind (1 byte), u64 milliseconds since the beginning, u32 length, u32 crc-32, payload
    payload   = the next piece of a zlib stream, flushed: whole records
    record    = u8 kind, f64 seconds of the recorder's monotonic clock, u64 wall clock in ms, u32 length, body

One block is written an interval. Every 60 s a block of kind `K` begins a new zlib stream with a whole state, at which a reader
can enter; it is skipped by one who comes from before. Kind `E` says that something happened in a block, so that readers jump from
event to event without unpacking. Numbers are big-endian. A recorder that dies leaves a file that is good up to its last block.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.dashboard.observer import Heard, Lost, Noted, Observer, Picture, Report, Told, Watched
from ravelpb.v1 import cluster_pb2 as pb

VERSION: Final = 1
MAGIC: Final = b"ravel recording\n"
KEYFRAME_EVERY_S: Final = 60.0
BLOCK_BYTES_MAX: Final = 64 << 20
"""Of a block as it lies in the file: a longer one is damage."""
WARM_UP_MS: Final = 180_000
"""Before a place that is gone to, so much is played unseen: trends and alarms need a past."""
SUFFIX: Final = ".rvtop"

_HEADER: Final = struct.Struct(">HI")
_BLOCK: Final = struct.Struct(">cQII")
_RECORD: Final = struct.Struct(">BdQI")
_KEYFRAME, _TICK, _EVENT = b"K", b"T", b"E"
_HEARD, _TOLD, _LOST, _WATCHED, _NOTED, _TICKED = range(1, 7)


def default_name(cluster: str, wall_ms: int) -> str:
    """In the current folder: the cluster and when it began."""
    return f"{cluster or 'ravel'}-{datetime.fromtimestamp(wall_ms / 1000, UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"


# --- records


def _body(report: Report) -> tuple[int, bytes]:
    match report:
        case Heard():
            return _HEARD, report.address.encode() + b"\0" + report.status.SerializeToString()
        case Told():
            return _TOLD, report.address.encode() + b"\0" + pb.WatchStatusResponse(events=report.events).SerializeToString()
        case Lost():
            return _LOST, report.address.encode() + b"\0" + report.error.encode()
        case Watched():
            return _WATCHED, "\0".join(report.addresses).encode()
        case Noted():
            return _NOTED, json.dumps([report.kind, report.text, report.grave]).encode()


def _report(kind: int, body: bytes) -> Report | None:
    """None for a kind of a later version: it is passed over."""
    head, _, rest = body.partition(b"\0")
    if kind == _HEARD:
        return Heard(head.decode(), pb.StatusResponse.FromString(rest))
    if kind == _TOLD:
        return Told(head.decode(), tuple(pb.WatchStatusResponse.FromString(rest).events))
    if kind == _LOST:
        return Lost(head.decode(), rest.decode())
    if kind == _WATCHED:
        return Watched(tuple(part.decode() for part in body.split(b"\0") if part))
    if kind == _NOTED:
        word, text, grave = json.loads(body)
        return Noted(word, text, grave)
    return None


# --- writing


class Recorder:
    """Writes one recording. `write` what comes in, `tick` once an interval. Raises OSError where the file cannot be written."""

    def __init__(self, path: Path, *, interval_s: float, cluster: str, version: str, wall_ms: int) -> None:
        """Raises CommandError (exit 2) if the file is there already: a recording is never written over."""
        self.path = path
        self.bytes_written = 0
        try:
            self._file: BinaryIO = open(path, "xb")  # noqa: SIM115 - closed by `close`
        except FileExistsError:
            raise usage_error(f"{path} is there already", "name another file: a recording is never written over") from None
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}", next_step="name another place") from error
        self._pending: list[bytes] = []
        self._start_s: float | None = None
        self._keyframe_s = 0.0
        self._happened = -1
        self._zlib = zlib.compressobj(6)
        header = {"interval_s": interval_s, "cluster": cluster, "recorded_by": f"ravelctl {version}", "began_ms": wall_ms}
        text = json.dumps(header).encode()
        self._put(MAGIC + _HEADER.pack(VERSION, len(text)) + text)

    def write(self, report: Report, at_s: float, wall_ms: int) -> None:
        kind, body = _body(report)
        self._pending.append(_RECORD.pack(kind, at_s, wall_ms, len(body)) + body)

    def tick(self, observer: Observer, now_s: float, wall_ms: int) -> None:
        """Close the interval: what has come since the last one is written and flushed, then the judgement of alarms is noted."""
        if self._start_s is None:
            self._start_s = now_s
        if self._happened < 0 or now_s - self._keyframe_s >= KEYFRAME_EVERY_S:
            self._enter(observer, now_s, wall_ms)
        happened = observer.happened != self._happened
        self._happened = observer.happened
        self._pending.append(_RECORD.pack(_TICKED, now_s, wall_ms, 0))
        self._block(_EVENT if happened else _TICK, b"".join(self._pending), now_s)
        self._pending.clear()

    def _enter(self, observer: Observer, now_s: float, wall_ms: int) -> None:
        """A place to enter at. What is pending is in this state already; that it is taken in again does no harm."""
        self._keyframe_s = now_s
        self._zlib = zlib.compressobj(6)
        records = []
        for at_s, report in observer.whole():
            kind, body = _body(report)
            records.append(_RECORD.pack(kind, at_s, wall_ms, len(body)) + body)
        self._block(_KEYFRAME, b"".join(records), now_s)

    def _block(self, kind: bytes, records: bytes, now_s: float) -> None:
        payload = self._zlib.compress(records) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        since_ms = max(0, round((now_s - (self._start_s or 0.0)) * 1000))
        self._put(_BLOCK.pack(kind, since_ms, len(payload), zlib.crc32(payload)) + payload)

    def _put(self, raw: bytes) -> None:
        self._file.write(raw)
        self._file.flush()
        self.bytes_written += len(raw)

    def close(self) -> None:
        self._file.close()


# --- reading


@dataclass(frozen=True, slots=True)
class _Block:
    kind: bytes
    since_ms: int
    offset: int  # of the payload
    length: int


class Recording:
    """A recording as it lies in a file, opened as far as it is good. `damage` says why it goes no further, or is empty."""

    def __init__(self, path: Path) -> None:
        """Raises CommandError: 2 there is no such file, 8 it is no recording, or nothing of it is good."""
        self.path = path
        try:
            self._raw = path.read_bytes()
        except OSError as error:
            raise usage_error(f"cannot read {path}: {error.strerror}", "name a file of `ravelctl record`") from error
        self.damage = ""
        at = self._open_header()
        self._blocks = tuple(self._scan(at))
        if not any(block.kind != _KEYFRAME for block in self._blocks):
            raise _damaged(path, self.damage or "it holds no frame")

    def _open_header(self) -> int:
        raw, at = self._raw, len(MAGIC)
        if not raw.startswith(MAGIC) or len(raw) < at + _HEADER.size:
            raise _damaged(self.path, "it does not begin as one")
        version, length = _HEADER.unpack_from(raw, at)
        if version != VERSION:
            raise CommandError(
                f"{self.path} is a recording of version {version}; this ravelctl plays version {VERSION}",
                code=ExitCode.REFUSED,
                next_step="play it with the ravelctl that recorded it",
            )
        at += _HEADER.size
        try:
            header = json.loads(raw[at : at + length])
            self.interval_s = float(header["interval_s"])
            self.cluster = str(header["cluster"])
            self.recorded_by = str(header["recorded_by"])
            self.began_ms = int(header["began_ms"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self.path, "its header is damaged") from error
        return int(at + length)

    def _scan(self, at: int) -> Iterator[_Block]:
        raw = self._raw
        while at < len(raw):
            if at + _BLOCK.size > len(raw):
                self.damage = f"it ends within a block at byte {at}"
                return
            kind, since_ms, length, crc = _BLOCK.unpack_from(raw, at)
            start = at + _BLOCK.size
            if kind not in (_KEYFRAME, _TICK, _EVENT) or length > BLOCK_BYTES_MAX:
                self.damage = f"what stands at byte {at} is no block"
                return
            if start + length > len(raw):
                self.damage = f"it ends within a block at byte {at}"
                return
            if zlib.crc32(raw[start : start + length]) != crc:
                self.damage = f"the block at byte {at} does not match its checksum"
                return
            yield _Block(kind, since_ms, start, length)
            at = start + length

    @property
    def blocks(self) -> tuple[_Block, ...]:
        return self._blocks

    @property
    def length_ms(self) -> int:
        return self._blocks[-1].since_ms

    def payload(self, block: _Block) -> bytes:
        return self._raw[block.offset : block.offset + block.length]

    @property
    def size_bytes(self) -> int:
        return len(self._raw)


def _damaged(path: Path, why: str) -> CommandError:
    return CommandError(
        f"{path} cannot be played: {why}", code=ExitCode.DAMAGED, next_step="name a file of `ravelctl record` or `top --record`"
    )


class Player:
    """Plays a recording into an observer of its own. Positions are milliseconds since its beginning."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.at_ms = 0
        self.speed = 1
        self.playing = True
        self.damage = recording.damage
        self.seek(0)

    # --- moving

    def seek(self, at_ms: int) -> None:
        """Go to a moment; its picture is as if all before had been played."""
        blocks = self.recording.blocks
        goal = max(0, min(at_ms, self.recording.length_ms))
        entries = [n for n, block in enumerate(blocks) if block.kind == _KEYFRAME and block.since_ms <= max(0, goal - WARM_UP_MS)]
        self.observer = Observer(self.recording.interval_s)
        self.picture: Picture = self.observer.picture(0.0, self.recording.began_ms)
        self._zlib = zlib.decompressobj()
        self._next = entries[-1] if entries else 0
        self._entering = True
        self._play_until(goal)
        self.at_ms = goal

    def advance(self, seconds: float) -> bool:
        """So much time of the recording goes by. Returns whether there is a new picture; at the end it holds."""
        if not self.playing:
            return False
        self.at_ms = min(self.at_ms + round(seconds * self.speed * 1000), self.recording.length_ms)
        if self.at_ms >= self.recording.length_ms:
            self.playing = False
        return self._play_until(self.at_ms)

    def step(self, by: int) -> None:
        """So many intervals on, or back."""
        self.playing = False
        places = [block.since_ms for block in self.recording.blocks if block.kind != _KEYFRAME]
        at = sum(place <= self.at_ms for place in places) - 1
        goal = places[max(0, min(len(places) - 1, at + by))]
        if by > 0:
            self._play_until(goal)
            self.at_ms = goal
        else:
            self.seek(goal)

    def jump(self, by: int) -> None:
        """To the next moment in which something happened, or to the one before."""
        places = [block.since_ms for block in self.recording.blocks if block.kind == _EVENT]
        if by > 0:
            goal = next((place for place in places if place > self.at_ms), None)
        else:
            goal = next((place for place in reversed(places) if place < self.at_ms), None)
        if goal is not None:
            self.playing = False
            self.seek(goal)

    def goto(self, text: str) -> None:
        """HH:MM or HH:MM:SS in UTC, of the day on which it began (or the next one). Raises ValueError."""
        parts = [int(part) for part in text.strip().removesuffix("Z").split(":")]
        if len(parts) not in (2, 3) or not (0 <= parts[0] < 24 and all(0 <= part < 60 for part in parts[1:])):
            raise ValueError(f"{text!r} is not a time such as 14:03 or 14:03:27")
        began = self.recording.began_ms
        seconds = parts[0] * 3600 + parts[1] * 60 + (parts[2] if len(parts) == 3 else 0)
        day_ms = 86_400_000
        goal = began // day_ms * day_ms + seconds * 1000
        if goal < began - 60_000:
            goal += day_ms
        if not began - 60_000 <= goal <= began + self.recording.length_ms + 60_000:
            raise ValueError(f"{text} is not in this recording")
        self.seek(goal - began)

    def faster(self, by: int) -> None:
        speeds = (1, 2, 4, 8, 15, 30, 60)
        at = speeds.index(self.speed)
        self.speed = speeds[max(0, min(len(speeds) - 1, at + by))]

    @property
    def mode(self) -> str:
        share = self.at_ms / self.recording.length_ms if self.recording.length_ms else 1.0
        word = f"REPLAY {self.speed}x" if self.playing else "REPLAY held"
        return f"{word} {share:.0%}" + (" DAMAGED" if self.damage else "")

    # --- playing

    def _play_until(self, goal_ms: int) -> bool:
        changed = False
        blocks = self.recording.blocks
        while self._next < len(blocks) and blocks[self._next].since_ms <= goal_ms:
            block = blocks[self._next]
            self._next += 1
            if block.kind == _KEYFRAME:
                self._zlib = zlib.decompressobj()
            skipped = block.kind == _KEYFRAME and not self._entering
            try:
                changed |= self._play(self._zlib.decompress(self.recording.payload(block)), silent=skipped)
            except (zlib.error, struct.error, ValueError) as error:
                # Its checksum is right and its content is not: a recorder wrote it so. What came before still plays.
                self.damage = f"the block at {block.since_ms / 1000:.0f} s cannot be unpacked: {error}"
                self._next = len(blocks)
            if block.kind == _KEYFRAME:
                self._entering = False
        return changed

    def _play(self, records: bytes, *, silent: bool) -> bool:
        if silent:
            return False
        at, changed = 0, False
        while at < len(records):
            kind, at_s, wall_ms, length = _RECORD.unpack_from(records, at)
            at += _RECORD.size
            body = records[at : at + length]
            at += length
            if kind == _TICKED:
                self.picture = self.observer.tick(at_s, wall_ms)
                changed = True
            elif (report := _report(kind, body)) is not None:
                self.observer.take(report, at_s, wall_ms)
        return changed
