"""Bounds of what a command and the replicated state may hold.

They are part of what a log means: every replica judges a command by the same numbers, so none of them may be configured. The
configurable bounds (`--value-bytes-max`, `--request-bytes-max`) are checked at the edge, before a command is proposed, and may
not exceed the ceilings here.
"""

from __future__ import annotations

from typing import Final

KEY_BYTES_MAX: Final = 480
"""Bytes of a user key, at least 1. LMDB takes 511; the rest is room for what a later format puts before a key."""

VALUE_BYTES_MAX: Final = 1 << 20
"""Default of --value-bytes-max."""

VALUE_BYTES_CEILING: Final = 64 << 20
"""The most that --value-bytes-max may be set to, and the most that a replica applies."""

REQUEST_BYTES_CEILING: Final = 64 << 20
"""The most that --request-bytes-max may be set to. What one replica takes from a client every other one takes from its leader, so
the bounds between replicas follow from this one and not from a setting of theirs."""

CONDITIONS_MAX: Final = 1_024
"""Conditions of one WRITE."""

OPERATIONS_MAX: Final = 1_024
"""Operations of one WRITE."""

GROUP_COMMANDS_MAX: Final = 1_024
"""Commands of one group, which is what one request wrote."""

ENTRY_COMMANDS_MAX: Final = 1 << 16
"""Commands of one entry: positions in it have 16 bits in client ids and in the order of sessions."""

HISTORY_ENTRIES_MAX: Final = 1 << 20
"""Entries back from the newest whose changes can be told; a multiple of history.ANCHOR_ENTRIES. Logs are mostly shorter."""

SESSIONS_MAX: Final = 10_000
"""Registered clients; the least recently used goes first."""

RESULTS_MAX: Final = 1_024
"""Stored answers of one client: writes that it may have without having acknowledged their answers."""

RESULT_BYTES_MAX: Final = 8 << 20
"""Bytes of values in one client's stored answers. One that does not fit is not kept: repeated, its write is RESULT_FORGOTTEN."""

MOVED_KEYS_MAX: Final = 1_024
"""Keys of one step of a move of slots."""

MOVED_BYTES_MAX: Final = 1 << 20
"""Bytes of keys and values of one step of a move; a larger pair travels alone."""

MOVES_MAX: Final = 64
"""Moves of slots under way at one cluster."""

NAME_BYTES_MAX: Final = 63
"""Characters of a member's or a cluster's name, out of a-z, 0-9, '-', '_', '.'; at least 1."""

VERSION_BYTES_MAX: Final = 64
"""Bytes of a daemon's version."""

ADDRESS_BYTES_MAX: Final = 300
"""Bytes of a host:port; a DNS name has at most 253."""

CONTEXT_RECORDS_MAX: Final = 64
"""Member records in the context of one membership change."""
