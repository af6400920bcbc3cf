"""ravelctl: the client library, the commands and the screens of ravel. Runs where LMDB is not installed."""
