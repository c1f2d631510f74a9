"""The `handclasp` command."""
