"""Passwords: hashed, checked without telling known users from unknown ones, and guessed only slowly."""
