"""Checking that whoever uploads a certificate for themselves holds its key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.certificate_service.x509.keys import check_client_key, read_public_key
from handclasp.client.possession import FIRST_LINE, TIME_FORMAT, make_statement
from handclasp.errors import InvalidArgument, Reason

MAX_AGE = timedelta(minutes=10)
MAX_AHEAD = timedelta(minutes=2)

# The longest signature that a key which is let in makes: RSA with 8,192 bits.
_MAX_SIGNATURE = 1024
# Trust domain, user and fingerprint leave plenty of room in it.
_MAX_STATEMENT = 1024
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def check_possession(
    *, statement: str, signature: bytes, leaf: x509.Certificate, trust_domain: str, user_id: str, now: datetime
) -> None:
    """Accepts a possession proof (`PossessionProof` in certificate_service.proto), or refuses it.

    It proves that the signer held the leaf's key within the last ten minutes, and meant this user here. Within that
    time it can be shown again; what is then uploaded is the same certificate, for the same user.

    Raises:
        InvalidArgument: `POSSESSION_PROOF_INVALID`, with what is off; `KEY_NOT_ACCEPTED`, before anything is computed.
    """
    public_key = read_public_key(leaf)
    check_client_key(public_key)
    if len(statement) > _MAX_STATEMENT or len(signature) > _MAX_SIGNATURE:
        raise _refused("The statement or its signature is too long to be one.")
    lines = statement.split("\n")
    if len(lines) != 6 or lines[-1]:
        raise _refused(f"The statement has to be five lines, each ended by a line feed; there are {len(lines) - 1}.")
    first_line, said_domain, said_user, said_fingerprint, said_time, _ = lines
    if first_line != FIRST_LINE:
        raise _refused(f"The statement's first line has to be `{FIRST_LINE}`.")
    if said_domain != trust_domain:
        raise _refused(f"The statement is for another trust domain: its second line has to be `{trust_domain}`.")
    if said_user != user_id:
        raise _refused(f"The statement is for another user: its third line has to be `{user_id}`.")
    actual = fingerprint(leaf.public_bytes(serialization.Encoding.DER))
    if said_fingerprint != actual:
        raise _refused(f"The statement is about another certificate: its fourth line has to be `{actual}`.")
    signed_at = _read_time(said_time)
    if signed_at < now - MAX_AGE or signed_at > now + MAX_AHEAD:
        raise _refused(
            f"The statement is dated {said_time}, and it is {now.astimezone(UTC):{TIME_FORMAT}} here: it may be ten "
            "minutes old, or two minutes in the future. Check the clock."
        )
    expected = make_statement(
        trust_domain=trust_domain, user_id=user_id, fingerprint=actual, signed_at=signed_at
    ).encode("utf-8")
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, expected, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, expected, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise _refused(
            "The signature is not by the certificate's key over exactly this statement. Sign it with the key that "
            "belongs to the certificate, with SHA-256: `openssl dgst -sha256 -sign KEY STATEMENT`."
        ) from error


def _read_time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        pass  # a 31st of February
    raise _refused("The statement's fifth line has to be the time in UTC, as `2026-01-31T12:00:00Z`.")


def _refused(fault: str) -> InvalidArgument:
    return InvalidArgument(Reason.POSSESSION_PROOF_INVALID, f"The possession proof does not hold. {fault}")
