"""Reading a certificate signing request (PKCS #10, RFC 2986)."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from handclasp.certificate_service.x509.encodings import REQUEST_LABELS, read_ders
from handclasp.certificate_service.x509.keys import check_client_key, read_public_key
from handclasp.certificate_service.x509.rules import signature_fault
from handclasp.errors import InvalidArgument, Reason


def read_signing_request(*, pem: str | None = None, der: bytes | None = None) -> CertificatePublicKeyTypes:
    """The public key that a signing request is for, held by whoever made the request.

    Nothing else is taken from it: subject, attributes and requested extensions are not even looked at.

    Raises:
        InvalidArgument: `CSR_INVALID` if it is anything but exactly one readable request of at most 64 KiB;
            `KEY_NOT_ACCEPTED`; `CSR_SIGNATURE_INVALID` if the signature is not by that key, or with a broken hash.
    """
    ders = read_ders(
        pem=pem, der=der, labels=REQUEST_LABELS, what="certificate request", reason=Reason.CSR_INVALID, prefix="csr_"
    )
    if len(ders) > 1:
        raise InvalidArgument(Reason.CSR_INVALID, f"There are {len(ders)} certificate requests in it. Send one.")
    try:
        request = x509.load_der_x509_csr(ders[0])
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidArgument(
            Reason.CSR_INVALID,
            "The certificate request cannot be read: it is cut short, has something after its end, or is no PKCS #10 "
            "request at all. Make it again, with `handclasp csr new` for example.",
        ) from error
    public_key = read_public_key(request)
    check_client_key(public_key)
    fault = signature_fault(request)
    if fault is not None:
        raise InvalidArgument(Reason.CSR_SIGNATURE_INVALID, f"The certificate request {fault}.")
    if not _signature_holds(request):
        raise InvalidArgument(
            Reason.CSR_SIGNATURE_INVALID,
            "The certificate request's signature is not by the key inside it. The request was changed on its way, or "
            "made with another key: make it again.",
        )
    return public_key


def _signature_holds(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        # The algorithm named does not go with the key: an ECDSA signature by an RSA key, say.
        return False
