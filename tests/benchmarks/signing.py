"""What IssueCertificate cannot do without: a loop that parses a signing request and signs, and does nothing else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.benchmarks.figures import Burst


@dataclass(frozen=True, slots=True)
class SigningLoop:
    """Signs leaves that have what the service's have, with `cryptography` as its documentation shows it.

    Attributes:
        requests: signing requests as PEM, used in turn.
    """

    requests: Sequence[bytes] = field(repr=False)

    def __call__(self, seconds: float) -> Burst:
        key = ec.generate_private_key(ec.SECP256R1())
        turns = itertools.cycle(self.requests)
        calls = 0
        begin = now = time.perf_counter()
        while now < begin + seconds:
            sign(key, x509.load_pem_x509_csr(next(turns)))
            calls += 1
            now = time.perf_counter()
        return Burst(calls, now - begin)


def sign(key: ec.EllipticCurvePrivateKey, request: x509.CertificateSigningRequest) -> x509.Certificate:
    """A leaf for the key of a signing request, whose signature is not looked at."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    public_key = request.public_key()
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "caller")]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://handclasp.local/user/caller")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
