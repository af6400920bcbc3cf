"""The admin group: its registry, migrations of slots, adoption and reconciliation."""
