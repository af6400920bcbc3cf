"""Whether a recorded history of a key-value store is linearizable, and if not, which few operations show it.

Used by `ravelctl verify` on live clusters, and by the tests on everything they do to daemons and simulated worlds.
"""
