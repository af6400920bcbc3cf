"""Real clusters on this machine, for trying things out."""
