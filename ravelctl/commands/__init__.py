"""The commands of ravelctl: one file a noun, each imported when it is named."""
