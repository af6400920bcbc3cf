"""Replicated state machines: deterministic functions of the log."""
