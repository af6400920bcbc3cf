"""Shell completion: the scripts, and what Tab answers."""
