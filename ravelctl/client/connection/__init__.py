"""The way to the daemons: addresses, channels, TLS, and the repetition of calls."""
