"""The mistakes of the mutation study, one module for each room."""

from __future__ import annotations

from tests.mutation.mistakes import client, storage

ROOMS = (client.ROOM, storage.ROOM)
