"""One cluster: its overview, its members and what changes them, its events, its recovery."""
