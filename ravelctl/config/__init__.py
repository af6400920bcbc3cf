"""Settings of a run, and the file of contexts."""
