"""The commands, one module a noun. Each offers `command` and is imported when it is named (`ravelctl.cli.root.COMMANDS`)."""
