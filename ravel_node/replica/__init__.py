"""The driver that joins core, storage and transport into one replica."""
