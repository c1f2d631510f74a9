"""How a machine that trusts nothing yet comes to trust a CA, by the CA's fingerprint alone.

The fingerprint comes by another way: read out, or copied from the screen of `handclasp up`. Nothing that the network
says is believed until it matches.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import socket
import ssl
import string
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from handclasp.certificates.v1.certificate_service_pb2 import GetTrustBundleRequest, TrustBundle
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.client.addresses import check_address
from handclasp.client.channels import open_channel
from handclasp.client.credentials import TlsMaterial
from handclasp.errors import HandclaspError, Reason, Unauthenticated, Unavailable, invalid_field

_HEX_DIGITS = 64  # of a SHA-256
_CONNECT_TIMEOUT = 10.0  # seconds
_ATTEMPTS = 7
_NOTHING_NEW = 3
"""That many connections which show no certificate that was not seen before: there is no other one."""
_OPENSSL_LABEL = re.compile(r"sha-?256 fingerprint\s*=\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verified:
    """A certificate service that has shown to be under a CA.

    Attributes:
        authority: that CA's certificate, as PEM.
        bundle: what the service then said.
    """

    authority: bytes
    bundle: TrustBundle


async def fetch_authority(address: str, ca_fingerprint: str) -> bytes:
    """The CA certificate with that fingerprint, as PEM. Arguments and errors as of `verify_service`."""
    return (await verify_service(address, ca_fingerprint)).authority


async def verify_service(address: str, ca_fingerprint: str) -> Verified:
    """Finds the CA with that fingerprint, and what the certificate service at `address` (one-way TLS) says under it.

    The server's own certificate is first taken unverified, only to speak to it at all; then the trust bundle, which
    everybody may read, is searched for the CA with that fingerprint; and at last the server has to show that it is
    under that CA. Nobody is logged in, so whoever sits in between learns nothing.

    Args:
        address: `host:port` of the one-way TLS listener.
        ca_fingerprint: SHA-256 of the CA certificate's DER in hexadecimal; colons and upper case are fine, and so is
            the whole line of `openssl x509 -noout -fingerprint -sha256`.

    Raises:
        InvalidArgument: address or fingerprint does not fit.
        Unavailable: no server there (SERVER_UNREACHABLE).
        Unauthenticated: no CA with that fingerprint (CA_FINGERPRINT_MISMATCH), the server is not under that CA
            (SERVER_CERTIFICATE_REFUSED), or it is another port than that of one-way TLS (HANDSHAKE_REFUSED).
    """
    wanted = normalize_fingerprint(ca_fingerprint)
    if fault := check_address(address):
        raise invalid_field("address", fault)
    bundle = await _unverified_bundle(address)
    authority = _matching(address, bundle, wanted)
    return Verified(authority, await _trust_bundle(address, authority))


def normalize_fingerprint(given: str) -> str:
    """A SHA-256 fingerprint as 64 lower-case hexadecimal digits.

    Raises:
        InvalidArgument: it is none.
    """
    digits = _OPENSSL_LABEL.sub("", given.strip()).replace(":", "").lower()
    if len(digits) != _HEX_DIGITS or not set(digits) <= set(string.hexdigits):
        raise invalid_field(
            "ca_fingerprint",
            "a SHA-256 fingerprint has 64 hexadecimal digits, colons allowed; copy the whole of it",
        )
    return digits


async def _unverified_bundle(address: str) -> TrustBundle:
    """The trust bundle that whoever answers there has to show.

    A leaf among the roots vouches for itself (BoringSSL accepts partial chains), so the connection is to whoever
    answered just now, and proves nothing else. Each process of a service has a certificate of its own, and the next
    connection may be another one's: one more of them is asked for with each attempt, until all are known.
    """
    leaves: set[bytes] = set()
    for count in range(1, _ATTEMPTS + 1):
        found = {await _unverified_leaf(address) for _ in range(count)}
        nothing_new = count >= _NOTHING_NEW and found <= leaves
        leaves |= found
        try:
            return await _trust_bundle(address, b"".join(leaves))
        except Unauthenticated as error:
            if error.reason != Reason.SERVER_CERTIFICATE_REFUSED or nothing_new or count == _ATTEMPTS:
                raise
    raise AssertionError  # The last attempt returns or raises.


async def _unverified_leaf(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    try:
        pem = await asyncio.to_thread(
            ssl.get_server_certificate, (host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT
        )
    except socket.gaierror as error:
        raise Unavailable(
            Reason.SERVER_UNREACHABLE,
            f"{address} has a host name that cannot be resolved; check its spelling, and DNS",
        ) from error
    except (OSError, ValueError) as error:
        raise Unavailable(
            Reason.SERVER_UNREACHABLE,
            f"{address} does not answer with a TLS certificate ({error}); check that the server runs, and the port of "
            "one-way TLS (8442 by default)",
        ) from error
    return pem.encode()


async def _trust_bundle(address: str, roots: bytes) -> TrustBundle:
    channel = open_channel(address, TlsMaterial(roots), timeout=_CONNECT_TIMEOUT)
    async with channel:
        try:
            return await CertificateServiceStub(channel).GetTrustBundle(GetTrustBundleRequest())
        except HandclaspError as error:
            if error.reason not in (Reason.HANDSHAKE_REFUSED, Reason.METHOD_UNKNOWN):
                raise
            raise Unauthenticated(
                Reason.HANDSHAKE_REFUSED,
                f"{address} is another port; this needs the one-way TLS port of the certificate service (8442 by "
                "default)",
            ) from error


def _matching(address: str, bundle: TrustBundle, wanted: str) -> bytes:
    for pem in bundle.authorities:
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
        except ValueError:
            continue  # Whatever cannot be read does not match.
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        if hmac.compare_digest(fingerprint, wanted) and _is_ca(certificate):
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise Unauthenticated(
        Reason.CA_FINGERPRINT_MISMATCH,
        # What it showed is not said: it would only be copied into the next try.
        f"{address} has no CA with the fingerprint given. Check the address, and the fingerprint with whoever runs the "
        "server, by another way than this connection: if both are right, somebody is in between",
    )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False
