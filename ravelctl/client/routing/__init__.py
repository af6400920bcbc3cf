"""The keys of several clusters: the map of slots, and the cluster that a key belongs to."""
