"""Keeps what the service knows, in SQLite or PostgreSQL, by SQLAlchemy Core. A module for each subject."""
