"""Subcommands of `florist`, a file each."""
