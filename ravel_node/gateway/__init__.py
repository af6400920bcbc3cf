"""The HTTP face of all clusters of an admin group: stateless, any number may run."""
