"""Version 1 of the wire: generated from the .proto files beside this one by `make protos`."""
