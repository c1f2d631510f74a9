"""What both services share: limits, logging, health, start and stop."""
