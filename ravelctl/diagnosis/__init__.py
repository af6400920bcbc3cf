"""What doctor sees of a cluster, and the rules that judge it: pure values and functions but for `gather` and `bundle`."""
