"""Feed, leases and the process's own lease on the database."""
