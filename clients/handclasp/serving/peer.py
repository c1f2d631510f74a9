"""Who is calling, as far as the transport can tell: address, client certificate, Basic credentials.

Nothing here decides anything. The TLS stack has checked that the leaf chains to the trust bundle and that the peer
holds its key. It has *not* reliably checked that the leaf is valid now: TLS session resumption and open connections
outlive expiry. Whoever decides has to look at that, on every call.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import ssl
import unicodedata
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

import grpc

from handclasp.errors import Reason, Unauthenticated

MAX_AUTHORIZATION_LENGTH = 8192
"""Characters of an `authorization` header that are looked at. Longer ones are refused. The longest password, of 1,024
characters of four bytes each, takes 5,600."""

_CACHED_LENGTH = 8192
_LEAF_KEY = "x509_pem_cert"
_AUTHORIZATION_KEY = "authorization"


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """A user name and password as they were sent. Nobody has checked them yet."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a call.

    Args:
        address: IP address without port; empty if the call did not come over IP.
        certificate_der: the leaf that the peer presented. None exactly if the listener is one-way TLS.
        credentials: Basic credentials, if any were sent.
        connection: gRPC's name of the connection, the same for all calls on it. Names are used again by later ones.
    """

    address: str
    certificate_der: bytes | None = field(repr=False)
    credentials: BasicCredentials | None
    connection: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the leaf's DER, in lower-case hexadecimal."""
        return None if self.certificate_der is None else _fingerprint(self.certificate_der)


def read_peer(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """Reads the peer of a call.

    Only the leaf is taken: what a client sends after it is unverified and can hold anything.

    Raises:
        Unauthenticated: CREDENTIALS_MALFORMED, if there is an `authorization` header that is not Basic.
    """
    leaves = context.auth_context().get(_LEAF_KEY)
    der = _der(next(iter(leaves))) if leaves else None
    connection = context.peer()
    return Peer(_address(connection), der, _basic_credentials(context), connection)


def read_address(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """As much of the peer as can be had if its credentials make no sense."""
    connection = context.peer()
    return Peer(_address(connection), None, None, connection)


def _der(pem: bytes) -> bytes:
    # Peers choose how long their certificates are, so only those of an ordinary size may take up room in the cache.
    return _cached_der(pem) if len(pem) <= _CACHED_LENGTH else ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))


@functools.lru_cache(maxsize=1024)
def _cached_der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))


def _fingerprint(der: bytes) -> str:
    return _cached_fingerprint(der) if len(der) <= _CACHED_LENGTH else hashlib.sha256(der).hexdigest()


@functools.lru_cache(maxsize=1024)
def _cached_fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


@functools.lru_cache(maxsize=1024)
def _address(peer: str) -> str:
    """The IP address in gRPC's name of a peer: `ipv4:192.0.2.1:4711` or `ipv6:%5B2001:db8::1%5D:4711`."""
    scheme, _, rest = peer.partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return ""
    host, _, _port = urllib.parse.unquote(rest).rpartition(":")
    return host.removeprefix("[").removesuffix("]")


def _basic_credentials(context: grpc.aio.ServicerContext[Any, Any]) -> BasicCredentials | None:
    headers = [value for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION_KEY]
    if not headers:
        return None
    if len(headers) > 1:
        raise _malformed("the `authorization` metadata was sent more than once")
    return parse_basic(str(headers[0]))


def parse_basic(header: str) -> BasicCredentials:
    """Reads an `authorization` header of the Basic scheme (RFC 7617), in UTF-8.

    Raises:
        Unauthenticated: CREDENTIALS_MALFORMED. The message never holds any part of the header.
    """
    if len(header) > MAX_AUTHORIZATION_LENGTH:
        raise _malformed(f"the `authorization` metadata is longer than {MAX_AUTHORIZATION_LENGTH} characters")
    scheme, _, encoded = header.strip(" ").partition(" ")
    if scheme.lower() != "basic":
        raise _malformed("the `authorization` metadata is not of the scheme Basic")
    try:
        decoded = base64.b64decode(encoded.strip(" ").encode("ascii"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError):
        # Without `from None` the chained exception would carry the password's bytes into a log.
        raise _malformed("the `authorization` metadata is not base64 of UTF-8 text") from None
    username, colon, password = decoded.partition(":")
    if not colon:
        raise _malformed("the `authorization` metadata has no colon between user name and password")
    if any(unicodedata.category(character) == "Cc" for character in decoded):
        raise _malformed("the `authorization` metadata has control characters in user name or password")
    return BasicCredentials(username, password)


def _malformed(fault: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.CREDENTIALS_MALFORMED,
        f"{fault}; send `Basic ` and the base64 of `user:password` once, or nothing at all",
    )
