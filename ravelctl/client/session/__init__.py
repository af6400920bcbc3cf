"""The keys of one cluster: batched commands, scans and watches."""
