"""Reads private keys from files, and keeps them from being sent by mistake."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from handclasp.client import files
from handclasp.client.pem import has_private_key
from handclasp.errors import InvalidArgument, Reason

# RFC 7292, section 4: a PFX starts with a version and a ContentInfo, each with at most six octets of tag and length.
_PKCS12_START = 32
_PKCS7_DATA = bytes.fromhex("06092a864886f70d010701")


def load_private_key(path: Path) -> PrivateKeyTypes:
    """An unencrypted private key, PEM or DER.

    Raises:
        InvalidArgument: it cannot be read, is open to others, is encrypted, or is no key.
    """
    content = files.read_secret(path, "the private key")
    load = load_pem_private_key if b"-----BEGIN " in content else load_der_private_key
    try:
        return load(content, None)
    except TypeError:
        fault = "is encrypted; decrypt it into a file of your own with `openssl pkey` first"
    except (ValueError, UnsupportedAlgorithm):
        fault = "is not a PEM or DER private key of a known kind; check that it is the right file"
    # Outside the handlers, so that nothing of the key's content is in a cause.
    raise InvalidArgument(Reason.FILE_NOT_USABLE, f"the private key {path} {fault}")


def read_public(path: Path, what: str) -> bytes:
    """Reads a file that is to be sent to somebody, such as a certificate.

    Args:
        path: the file.
        what: what it should be, for the error: `the CA certificate`.

    Raises:
        InvalidArgument: it cannot be read, or holds a private key: PEM, DER or PKCS #12 (FILE_NOT_USABLE).
    """
    content = files.read_bytes(path, what)
    if has_private_key(content) or _is_pkcs12(content) or _is_der_private_key(content):
        raise InvalidArgument(
            Reason.FILE_NOT_USABLE, f"{path} holds a private key; nothing was sent. Give {what} without any key"
        )
    return content


def _is_pkcs12(content: bytes) -> bool:
    # Its version 3, and the type of what it holds, are the first things in it.
    start = content[:_PKCS12_START]
    return b"\x02\x01\x03\x30" in start and _PKCS7_DATA in start


def _is_der_private_key(content: bytes) -> bool:
    try:
        load_der_private_key(content, None)
    except (TypeError, UnsupportedAlgorithm):
        return True  # An encrypted one, or one of a kind that is not known here.
    except ValueError:
        return False
    return True
