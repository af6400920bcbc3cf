"""The frame of every command: the tree, options, output, errors, exit codes."""
