"""gRPC handlers: thin, without decisions; only binding.py knows the RPC library."""
