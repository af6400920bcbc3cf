"""Durable state: the log, the applied state, snapshots and identity, over LMDB."""
