"""The mistakes of the mutation study, one module for each room."""

from __future__ import annotations

from tests.mutation.mistakes import admin, client, daemon, machine, raft, replica, server, storage, toolkit, transport

ROOMS = (
    admin.ROOM,
    client.ROOM,
    daemon.ROOM,
    machine.ROOM,
    raft.ROOM,
    replica.ROOM,
    server.ROOM,
    storage.ROOM,
    toolkit.ROOM,
    transport.ROOM,
)
