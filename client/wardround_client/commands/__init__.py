"""The commands of `wardround-site`, a group a file."""
