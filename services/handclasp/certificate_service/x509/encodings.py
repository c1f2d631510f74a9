"""From what a caller sent, PEM or DER, to the DER inside: strict about content, lenient about what stands around it."""

from __future__ import annotations

import base64
from collections.abc import Collection

from handclasp.errors import FieldViolation, InvalidArgument, Reason

MAX_BYTES = 64 * 1024
CERTIFICATE_LABELS = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
REQUEST_LABELS = frozenset({"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"})

_BEGIN = "-----BEGIN "
_END = "-----END "
_DASHES = "-----"
# The longest label in use has 28 characters ("X.509 ATTRIBUTE CERTIFICATE" and the like).
_MAX_LABEL = 64


def read_ders(
    *, pem: str | None, der: bytes | None, labels: Collection[str], what: str, reason: Reason, prefix: str = ""
) -> list[bytes]:
    """What was sent, as DER; from PEM at least one.

    Args:
        pem: PEM blocks (RFC 7468). Text before, between and after them is ignored, as `openssl x509 -text` writes some;
            so is a missing line feed between two blocks.
        der: one object as DER. Exactly one of `pem` and `der` is given.
        labels: the PEM labels that will do.
        what: what the object is called in messages.
        reason: the reason of the error raised.
        prefix: what stands before `pem` and `der` in the request's field names: `csr_`.

    Raises:
        InvalidArgument: too large, nothing there, a block of another kind, or broken base64. A private key is refused
            and not repeated in the message.
    """
    field = f"{prefix}{'der' if pem is None else 'pem'}"

    def refused(fault: str) -> InvalidArgument:
        return InvalidArgument(reason, f"{field}: {fault}", violations=[FieldViolation(field, fault)])

    if der is not None and pem is None:
        if not der:
            raise refused(f"There is no {what} in it.")
        if len(der) > MAX_BYTES:
            raise refused(f"It is larger than {MAX_BYTES} bytes. Send the {what} alone.")
        return [der]
    if pem is None or der is not None:
        raise refused(f"Send the {what} either as PEM or as DER.")
    # "surrogatepass", so that text that is not even Unicode is refused for what it lacks and not by a failed encoding.
    if len(pem.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise refused(f"It is larger than {MAX_BYTES} bytes. Send the {what} alone.")
    ders = []
    try:
        for label, body in _blocks(pem):
            if "PRIVATE KEY" in label:
                raise refused(
                    "There is a private key in it. Take it out, and send only what is public. If it went over a "
                    "connection or into a file that others can read, make a new key."
                )
            if label not in labels:
                raise refused(f"There is a block in it that is not a {what}. Take it out.")
            ders.append(base64.b64decode("".join(body.split()), validate=True))
    except ValueError as error:
        raise refused(f"It is not well-formed PEM. Send the {what} again, with all its lines.") from error
    if not ders:
        raise refused(f"There is no {what} in it: no line `{_BEGIN}{min(labels)}{_DASHES}`.")
    return ders


class _BrokenPemError(ValueError):
    """A block without its end, or without a proper label."""


def _blocks(text: str) -> list[tuple[str, str]]:
    """Label and body of each block. One pass: the time is linear in the text, whatever is in it."""
    blocks = []
    position = text.find(_BEGIN)
    while position >= 0:
        start = position + len(_BEGIN)
        label_end = text.find(_DASHES, start, start + _MAX_LABEL + len(_DASHES))
        if label_end < 0:
            raise _BrokenPemError
        label = text[start:label_end]
        body_start = label_end + len(_DASHES)
        body_end = text.find(_DASHES, body_start)
        footer = f"{_END}{label}{_DASHES}"
        if body_end < 0 or not text.startswith(footer, body_end):
            raise _BrokenPemError
        blocks.append((label, text[body_start:body_end]))
        position = text.find(_BEGIN, body_end + len(footer))
    return blocks
