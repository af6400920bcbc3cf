"""Load on a live cluster: its speed (bench), and whether it keeps its promises (verify)."""
