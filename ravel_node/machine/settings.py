"""Settings of a whole cluster: they stand in its replicated state, so that all members follow the same ones at the same entry.

A setting is a name and a text. The state holds those that are not at their defaults; what a name means, and which values it may
have, stands in `SETTINGS`. A member of a later version may have written a name that this one does not know: it is kept, and has
no effect here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ravel_node.machine.base import Database, Reader, Txn

PREFIX: Final = b"setting/"
"""Of the keys of Database.META that hold settings: then comes the name."""


@dataclass(frozen=True, slots=True)
class ClusterSetting:
    """One setting of a whole cluster. `values` are those that it may have; the first is the default."""

    name: str
    values: tuple[str, ...]
    help: str

    @property
    def default(self) -> str:
        return self.values[0]


LEASES: Final = ClusterSetting(
    "leases",
    ("on", "off"),
    "Whether the leader answers linearizable reads alone while it holds its lease. `off`: every such read waits for a round of "
    "heartbeats. Turn it off where machines may be paused or migrated while they run.",
)

SETTINGS: Final[Mapping[str, ClusterSetting]] = {setting.name: setting for setting in (LEASES,)}
"""By name: every setting that this version knows."""


def value_of(setting: ClusterSetting, settings: Mapping[str, str]) -> str:
    """Return the value that is in force; the default where the state holds none, or one that this version does not know."""
    value = settings.get(setting.name, setting.default)
    return value if value in setting.values else setting.default


def read_settings(reader: Reader) -> dict[str, str]:
    """Return the settings in an applied state."""
    pairs = reader.scan(Database.META, PREFIX, PREFIX[:-1] + bytes([PREFIX[-1] + 1]))
    return {key[len(PREFIX) :].decode("ascii", "replace"): value.decode("utf-8", "replace") for key, value in pairs}


def write_setting(settings: Mapping[str, str], name: str, value: str, txn: Txn) -> dict[str, str]:
    """Set one setting, or put it back to its default where `value` is empty; return all that are set."""
    key = PREFIX + name.encode("ascii")
    if value:
        txn.put(Database.META, key, value.encode())
        return {**settings, name: value}
    txn.delete(Database.META, key)
    return {known: text for known, text in settings.items() if known != name}
