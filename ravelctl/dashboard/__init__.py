"""`ravelctl top`: what is seen of a cluster, put together (no Textual), and the screens that show it."""
