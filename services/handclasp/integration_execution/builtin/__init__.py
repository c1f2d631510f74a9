"""The integrations that the execution server ships with."""
