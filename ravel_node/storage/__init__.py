"""Durable state of one replica: the port (`base`), and one store behind it on LMDB or in dictionaries (`store`, `memory`)."""
