"""The `florist` command, one file a subcommand."""
