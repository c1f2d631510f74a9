"""Reading a certificate once and wholly, and showing it in messages."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from handclasp.errors import InvalidArgument, Reason

# See `comparable`.
ComparableName: TypeAlias = tuple[frozenset[tuple[str, str | bytes]], ...]
ExtensionValue = TypeVar("ExtensionValue", bound=x509.ExtensionType)

_MAX_SERIAL_BITS = 160
_MAX_SHOWN = 200


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate all of whose parts can be read: `cryptography` parses lazily, and what it would raise later is
    raised here.

    Nothing is computed with its key, and nothing is verified.

    Raises:
        InvalidArgument: `CERTIFICATE_INVALID` for anything but exactly one X.509 certificate, or one that is broken
            inside.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
        _ = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID,
            "The certificate cannot be read: it is cut short, has something after its end, or breaks the rules of "
            "X.509 inside. Send it again as the CA gave it out.",
        ) from error
    except x509.UnsupportedGeneralNameType as error:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID,
            "The certificate holds a name of a kind that is not supported (x400Address or ediPartyName). Have the CA "
            "issue it without.",
        ) from error
    if not 0 <= certificate.serial_number < 2**_MAX_SERIAL_BITS:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID,
            f"The certificate's serial number is negative, or longer than {_MAX_SERIAL_BITS // 8} bytes (RFC 5280, "
            "section 4.1.2.2). Have the CA issue it with a proper one.",
        )
    return certificate


def extension(certificate: x509.Certificate, kind: type[ExtensionValue]) -> ExtensionValue | None:
    """The value of the certificate's extension of that kind, if it has one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether issuer and subject are one name (RFC 5280, section 3.2), whoever signed it."""
    return comparable(certificate.issuer) == comparable(certificate.subject)


def comparable(name: x509.Name) -> ComparableName:
    """The relative names of a name, in a form that is equal where TLS stacks take names for equal.

    Case, runs of spaces and the kind of string do not count (caseIgnoreMatch, RFC 4518).
    """
    return tuple(
        frozenset(
            (
                item.oid.dotted_string,
                " ".join(item.value.casefold().split()) if isinstance(item.value, str) else item.value,
            )
            for item in relative
        )
        for relative in name.rdns
    )


def shown(name: x509.Name) -> str:
    """A name for a message: in quotes, without control characters, and cut if it is long."""
    text = "".join(character if character.isprintable() else "?" for character in name.rfc4514_string())
    return f"`{text[:_MAX_SHOWN]}{'…' if len(text) > _MAX_SHOWN else ''}`" if text else "an empty name"
