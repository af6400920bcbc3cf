"""Logs, snapshots and state of a replica, asked for or read from its directory."""
