"""Clients of single services, for operators and daemons."""
