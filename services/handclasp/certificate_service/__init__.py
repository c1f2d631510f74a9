"""The certificate service: issues, takes in, lists, judges and revokes client certificates."""
