"""The operator's toolkit, and the client library that it stands on (ravelctl.client)."""
