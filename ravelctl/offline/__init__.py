"""The one door of ravelctl to data directories: it is imported inside the functions of commands that take --data-dir.

Nothing here dials, and what only looks writes nothing, whether the directory's daemon runs, hangs or is dead.
"""
