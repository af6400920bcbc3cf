"""The progress of copying keys between clusters, as the admin reports it."""

from __future__ import annotations

from dataclasses import dataclass

from ravelctl.cli.output import U64, age_text, size_text
from ravelpb.v1 import admin_pb2 as pb


@dataclass(frozen=True, slots=True)
class CopyRow:
    bytes_copied: U64
    keys_done: U64  # of keys_expected: copied, or found at the destination
    keys_expected: U64 | None  # as of when copying began; None: not known
    bytes_expected: U64 | None  # an estimate; None: not known
    keys_per_s: U64
    bytes_per_s: U64
    seconds_left: float | None  # an estimate; None: not known


def copy_row(progress: pb.CopyProgress) -> CopyRow:
    return CopyRow(
        bytes_copied=U64(progress.bytes_copied),
        keys_done=U64(progress.keys_done),
        keys_expected=U64(progress.keys_expected) if progress.HasField("keys_expected") else None,
        bytes_expected=U64(progress.bytes_expected) if progress.HasField("bytes_expected") else None,
        keys_per_s=U64(progress.keys_per_s),
        bytes_per_s=U64(progress.bytes_per_s),
        seconds_left=progress.ms_left / 1000 if progress.HasField("ms_left") else None,
    )


def copy_text(row: CopyRow, keys_copied: int) -> str:
    """`1,204 of about 15,600 keys, 120KiB of about 1.5MiB, 900 keys/s, 90KiB/s, about 16.0s left`; empty before the first key."""
    if row.keys_expected is None:
        return f"{keys_copied:,} keys copied" if keys_copied else ""
    said = [f"{row.keys_done:,} of about {row.keys_expected:,} keys"]
    if row.bytes_expected:
        said.append(f"{size_text(row.bytes_copied)} of about {size_text(row.bytes_expected)}")
    if row.keys_per_s:
        said.append(f"{row.keys_per_s:,} keys/s, {size_text(row.bytes_per_s)}/s")
    if row.seconds_left:
        said.append(f"about {age_text(row.seconds_left)} left")
    return ", ".join(said)
