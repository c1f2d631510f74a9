"""Reads private keys from files."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from handclasp.client import files
from handclasp.errors import InvalidArgument, Reason


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
