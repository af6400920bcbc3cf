"""How daemons are reached: addresses, channels, TLS, and the one way in which calls are repeated."""
