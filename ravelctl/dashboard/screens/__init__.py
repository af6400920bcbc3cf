"""The screens of `ravelctl top`."""
