"""The contract between clients, replicas and admin servers: protobuf messages, error reasons, slots."""
