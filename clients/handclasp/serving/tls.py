"""TLS server credentials that can be swapped while the server runs.

gRPC checks next to nothing of what it is given: a bundle is read up to its first bad certificate and silently no
further, a leaf in it acts as a CA, and a dynamic configuration that is wrong leaves the old one in force. So all of it
is checked here first, and what cannot work raises `TlsMaterialError`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class TlsMaterialError(ValueError):
    """A key, a certificate or a bundle that a server cannot work with."""


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A server's own certificate and its key.

    Args:
        key_pem: the private key, not encrypted.
        chain_pem: the leaf, and then its intermediates.
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes

    def check(self) -> x509.Certificate:
        """Checks that the key is the leaf's, of a kind that gRPC clients accept, and that the chain is in order.

        Not checked: whether the certificates are valid now, and whether clients trust them.

        Returns:
            The leaf.
        Raises:
            TlsMaterialError: it cannot work; the message says why.
        """
        chain = _certificates(self.chain_pem, "the certificate chain")
        leaf = chain[0]
        try:
            key = load_pem_private_key(self.key_pem, password=None)
        except TypeError:
            raise TlsMaterialError("the private key is encrypted; give the server a decrypted one") from None
        except (ValueError, UnsupportedAlgorithm):
            raise TlsMaterialError("the private key is not a PEM private key") from None
        public_key = key.public_key()
        if public_key != leaf.public_key():
            raise TlsMaterialError("the private key does not belong to the first certificate of the chain")
        acceptable = (
            isinstance(public_key.curve, ec.SECP256R1 | ec.SECP384R1)
            if isinstance(public_key, ec.EllipticCurvePublicKey)
            else isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= 2048
        )
        if not acceptable:
            raise TlsMaterialError(
                "gRPC clients refuse this kind of key; use EC P-256, EC P-384, or RSA from 2048 bits"
            )
        for child, issuer in itertools.pairwise(chain):
            try:
                child.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                raise TlsMaterialError(
                    "the certificate chain is out of order: each certificate must be signed by the one after it"
                ) from None
        return leaf


def compose_roots(pems: Iterable[str | bytes]) -> bytes:
    """One bundle out of many CA certificates, in their order, without repetitions, written anew.

    Args:
        pems: PEM texts of one or more certificates each.
    Raises:
        TlsMaterialError: one is not a certificate or not a CA's, or there is none at all.
    """
    written: dict[bytes, None] = {}
    for pem in pems:
        encoded = pem.encode("utf-8") if isinstance(pem, str) else pem
        for certificate in _certificates(encoded, "the trust bundle"):
            _require_ca(certificate)
            written[certificate.public_bytes(Encoding.PEM)] = None
    if not written:
        raise TlsMaterialError("the trust bundle is empty, and would refuse everybody")
    return b"".join(written)


class ReloadingCredentials:
    """Credentials whose certificate, key and roots can be replaced while the server runs.

    Connections that are open already are not checked again. With `roots_pem` clients must present a certificate;
    without, TLS is one-way. Which of the two it is cannot be changed afterwards.

    Attributes:
        mutual: whether clients must present a certificate.
        last_handshake: when the last one began, in seconds on the monotonic clock.

    Raises:
        TlsMaterialError: the identity or the roots cannot work.
    """

    def __init__(self, identity: TlsIdentity, roots_pem: bytes | None) -> None:
        self.mutual = roots_pem is not None
        self.last_handshake = -math.inf
        # gRPC asks for a configuration at each handshake, on a thread of its own, and stalls all handshakes until it
        # has one; so it only ever gets one that is ready, and each only once. Both ends of a deque are atomic.
        self._prepared: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        initial = self._configuration(identity, roots_pem)
        # The stubs do not know that None, for no change, is among what the fetcher may return.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)
        self.credentials = grpc.dynamic_ssl_server_credentials(initial, fetch, self.mutual)

    def replace(self, identity: TlsIdentity, roots_pem: bytes | None) -> None:
        """Has the next handshake, and those after it, use this identity and these roots. May be called in any thread.

        Each replacement makes gRPC build a new context (3 ms with 100 roots), so call it only if something changed.

        Raises:
            TlsMaterialError: they cannot work; what is in force stays in force.
        """
        self._prepared.append(self._configuration(identity, roots_pem))

    def _configuration(self, identity: TlsIdentity, roots_pem: bytes | None) -> grpc.ServerCertificateConfiguration:
        if self.mutual != (roots_pem is not None):
            raise TlsMaterialError("a listener cannot change between one-way TLS and mutual TLS; start another one")
        roots = None if roots_pem is None else compose_roots([roots_pem])
        return grpc.ssl_server_certificate_configuration([_checked_pair(identity)], roots)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        self.last_handshake = time.monotonic()
        try:
            return self._prepared.pop()
        except IndexError:
            return None


def _checked_pair(identity: TlsIdentity) -> tuple[bytes, bytes]:
    """The identity for gRPC, its chain written anew, since gRPC stops reading where a newline is missing."""
    identity.check()
    chain = _certificates(identity.chain_pem, "the certificate chain")
    return identity.key_pem, b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise TlsMaterialError(f"{what} has a part that is not a PEM certificate") from None
    # The parser skips over what has no proper begin and end.
    if len(certificates) != pem.count(_BEGIN_CERTIFICATE):
        raise TlsMaterialError(f"{what} has a part that cannot be read; put each certificate on lines of its own")
    return certificates


def _require_ca(certificate: x509.Certificate) -> None:
    subject = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_ca = constraints.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        raise TlsMaterialError(f"the trust bundle holds {subject!r}, which is not a CA's certificate; take it out")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise TlsMaterialError(f"the trust bundle holds {subject!r}, whose key may not sign certificates; take it out")
