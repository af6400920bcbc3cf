"""One suite for every implementation of the port."""

from __future__ import annotations

import os

import lmdb
import pytest

from ravel_node.storage.engine import Engine
from ravel_node.storage.memory import MemoryEngine
from tests.storage.suite import StoreSuite


class TestLmdb(StoreSuite):
    @pytest.fixture(autouse=True)
    def _unsynced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is asked here would be the same if nothing reached the disk, and a loaded disk makes it slow."""
        real = lmdb.open
        monkeypatch.setattr(lmdb, "open", lambda *arguments, **named: real(*arguments, **{**named, "sync": False}))
        monkeypatch.setattr(os, "fsync", lambda fd: None)

    def make_engine(self) -> Engine | None:
        return None  # what `open_store` takes by itself


class TestMemory(StoreSuite):
    def make_engine(self) -> Engine | None:
        return MemoryEngine()
