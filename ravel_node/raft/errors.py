"""What the core refuses, what its storage may answer, and the one error that nobody catches."""

from __future__ import annotations


class RaftError(Exception):
    """A refusal: nothing was changed."""


class ProposalDroppedError(RaftError):
    """There is no leader to take the proposal, or this one may not take it now. It was not appended anywhere."""

    def __init__(self) -> None:
        super().__init__("raft proposal dropped")


class PeerNotFoundError(RaftError):
    """An answer came from a replica that is not in the configuration."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step as peer not found")


class LocalMessageError(RaftError):
    """A message of a local type came over the network."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step raft local message")


class ConfChangeError(RaftError):
    """A membership change that the configuration does not allow."""


class RaftConfigError(ValueError):
    """A RaftConfig that cannot work; the message tells every problem with its values."""


class StorageError(Exception):
    """What a `Storage` answers instead of entries, a term or a snapshot."""


class CompactedError(StorageError):
    """The index lies below the first one that the log still holds."""

    def __init__(self) -> None:
        super().__init__("requested index is unavailable due to compaction")


class UnavailableError(StorageError):
    """The index lies above the last one that the log holds."""

    def __init__(self) -> None:
        super().__init__("requested entry at index is unavailable")


class SnapshotTemporarilyUnavailableError(StorageError):
    """No snapshot is ready yet; one is being made, ask again later."""

    def __init__(self) -> None:
        super().__init__("snapshot is temporarily unavailable")


class SnapshotOutOfDateError(StorageError):
    """The snapshot is not newer than the one that the log already starts from."""

    def __init__(self) -> None:
        super().__init__("requested index is older than the existing snapshot")


class InvariantError(Exception):
    """Something that must always hold does not. Nobody catches this: the daemon says why and exits."""


class DivergedError(InvariantError):
    """The leader has other entries than those that are committed here: one of the two has lost acknowledged data."""


def invariant(condition: bool, message: str) -> None:
    """Raise InvariantError unless `condition` holds. Unlike `assert` it stays on under `python -O`."""
    if not condition:
        raise InvariantError(message)
