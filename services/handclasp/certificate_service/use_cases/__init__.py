"""What callers can have done, a module for each subject: authorize, check, act in one transaction, log."""
