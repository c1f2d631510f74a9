"""The possession statement: what whoever uploads a certificate for themselves signs with its key.

The format is that of `PossessionProof` in handclasp/certificates/v1/certificate_service.proto. The service builds the
statement that it expects from here too, so there is one place that knows how it looks.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from handclasp.errors import InvalidArgument, Reason

FIRST_LINE = "handclasp possession proof v1"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def make_statement(*, trust_domain: str, user_id: str, fingerprint: str, signed_at: datetime) -> str:
    """The statement to sign: five lines, each ended by a line feed.

    Args:
        trust_domain: of the service, as `GetTrustBundle` gives it.
        user_id: whom the certificate is uploaded for, without `users/`.
        fingerprint: SHA-256 of the leaf's DER, in lower-case hexadecimal.
        signed_at: now, with a time zone; whole seconds count. The service takes it for ten minutes.
    """
    moment = signed_at.astimezone(UTC)
    # Not strftime: what it makes of years before 1000 depends on the platform.
    dated = f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"
    return f"{FIRST_LINE}\n{trust_domain}\n{user_id}\n{fingerprint}\n{dated}\n"


def sign_statement(private_key: PrivateKeyTypes, statement: str) -> bytes:
    """The statement's signature, as `openssl dgst -sha256 -sign KEY` makes it.

    Raises:
        InvalidArgument: `KEY_NOT_ACCEPTED` for a key that is neither EC nor RSA.
    """
    data = statement.encode("utf-8")
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    raise InvalidArgument(
        Reason.KEY_NOT_ACCEPTED, "Only EC and RSA keys can be used by clients here. Use EC P-256, EC P-384 or RSA."
    )
