"""Tells PEM from DER."""

from __future__ import annotations


def pem_text(content: bytes) -> str | None:
    """The content as text if it is PEM; None if it has to be DER."""
    if b"-----BEGIN " not in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
