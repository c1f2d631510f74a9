"""Tells PEM from DER, and what is in PEM by its labels (RFC 7468)."""

from __future__ import annotations

import re

_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")


def pem_text(content: bytes) -> str | None:
    """The content as text if it is PEM; None if it has to be DER."""
    if b"-----BEGIN " not in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def has_certificate(content: bytes) -> bool:
    """Whether there is a certificate in this PEM."""
    return _CERTIFICATE.search(content) is not None


def has_private_key(content: bytes) -> bool:
    """Whether there is a private key in this PEM, of any kind, encrypted or not."""
    return _PRIVATE_KEY.search(content) is not None
