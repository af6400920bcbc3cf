"""Messages and snapshots between replicas."""
