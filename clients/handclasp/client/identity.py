"""Reads a client certificate and its private key, and tells the mix-ups that gRPC would not name."""

from __future__ import annotations

from pathlib import Path

from handclasp.client import files
from handclasp.client.pem import has_certificate, has_private_key
from handclasp.errors import InvalidArgument, Reason


def read_identity(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """The content of a certificate file and of the file with its private key, both PEM.

    Whether the two are a pair is not checked: the server does that, and `refusals` says it.

    Raises:
        InvalidArgument: one cannot be read, is empty, or is the other (FILE_NOT_USABLE), or the private key is open to
            others (FILE_OPEN_TO_OTHERS).
    """
    certificate_content = _not_empty(
        files.read_bytes(certificate, "the client certificate"), certificate, "certificate"
    )
    if has_private_key(certificate_content) and not has_certificate(certificate_content):
        raise _swapped(certificate, "a private key, not a certificate")
    try:
        key_content = files.read_secret(key, "the private key")
    except InvalidArgument as error:
        # A certificate in its place may well be open to others, and that is not what is wrong.
        if error.reason == Reason.FILE_OPEN_TO_OTHERS:
            _refuse_certificate(key, files.read_bytes(key, "the private key"))
        raise
    _refuse_certificate(key, key_content)
    return certificate_content, _not_empty(key_content, key, "private key")


def _refuse_certificate(key: Path, content: bytes) -> None:
    if has_certificate(content) and not has_private_key(content):
        raise _swapped(key, "a certificate, not a private key")


def _not_empty(content: bytes, path: Path, what: str) -> bytes:
    if not content.strip():
        raise InvalidArgument(Reason.FILE_NOT_USABLE, f"the {what} {path} is empty; check that it is the right file")
    return content


def _swapped(path: Path, fault: str) -> InvalidArgument:
    return InvalidArgument(
        Reason.FILE_NOT_USABLE, f"{path} is {fault}; are certificate and key (--cert and --key) swapped?"
    )
