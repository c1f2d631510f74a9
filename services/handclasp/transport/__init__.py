"""What every server of Handclasp shares: TLS, who is calling, errors as statuses, start and stop, health, logs."""
