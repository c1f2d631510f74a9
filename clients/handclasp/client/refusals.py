"""Turns what gRPC says of a connection that did not come about into what to check.

gRPC has one status for all of it, UNAVAILABLE, and puts the cause into its text. The texts are those of grpcio 1.85,
each provoked by a test. A server that refuses the client's certificate just closes the connection: no alert is passed
on, and all that is seen is "Socket closed". So the material that the client presents is looked at here, afterwards.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from handclasp.client.credentials import TlsMaterial
from handclasp.errors import HandclaspError, Reason, Unauthenticated, Unavailable, Unimplemented

if TYPE_CHECKING:
    from cryptography import x509

_VERIFY_FAILED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")
_NEVER_CONNECTED = ("failed to connect", "all backends failing", "errors resolving")
_NOT_OUR_PROTOCOL = ("WRONG_VERSION_NUMBER", "missing selected ALPN")
# Closed by the server once our side of the handshake was done, which is how a refused client certificate looks;
# TLS 1.2 servers may answer with an alert instead.
_CLOSED_AFTER_OUR_CERTIFICATE = ("Socket closed", "Connection reset", "Broken pipe", "_ALERT_")


def explain_unavailable(details: str, address: str, tls: TlsMaterial) -> HandclaspError:
    """What a bare UNAVAILABLE means.

    Args:
        details: the status's text, made by gRPC on this side.
        address: `host:port` that was called.
        tls: what the channel was made with.

    Returns:
        `Unauthenticated` if one side's certificate is the matter for certain; otherwise `Unavailable`.
    """
    if "Failed to create security handshaker" in details:
        fault = material_fault(tls) or "gRPC cannot use the certificate files"
        return Unauthenticated(Reason.HANDSHAKE_REFUSED, f"no connection to {address} was tried: {fault}")
    if verify := _VERIFY_FAILED.search(details):
        return Unauthenticated(
            Reason.SERVER_CERTIFICATE_REFUSED,
            f"the certificate of {address} is not accepted here ({verify[1].strip()}); check that the CA file is of "
            "the CA that issued it, that it is not expired, and this machine's clock",
        )
    if "Hostname Verification Check failed" in details:
        host = address.rpartition(":")[0]
        return Unauthenticated(
            Reason.SERVER_CERTIFICATE_REFUSED,
            f"the certificate of {address} does not name {host}; use a name or address that it carries, or have it "
            "issued with this one",
        )
    if not any(text in details for text in _NEVER_CONNECTED):
        return connection_lost(address)
    if any(text in details for text in _NOT_OUR_PROTOCOL):
        return _unreachable(address, "does not speak gRPC over TLS", "check the port")
    if "Handshake read failed" in details:
        return _unreachable(
            address,
            "closed the connection before TLS was set up",
            "check the port, and whether the server is overloaded",
        )
    if any(text in details for text in _CLOSED_AFTER_OUR_CERTIFICATE):
        return _handshake_refused(address, tls)
    if "Connection refused" in details:
        return _unreachable(address, "does not answer: connection refused", "check that the server runs, and the port")
    if "errors resolving" in details or "lookup" in details:
        return _unreachable(address, "has a host name that cannot be resolved", "check its spelling, and DNS")
    cause = details.rpartition("last error: ")[2]
    return _unreachable(address, f"cannot be reached ({cause})", "check the address, the network and any firewall")


def connection_lost(address: str) -> Unavailable:
    """What to say of a call that was sent, and not answered."""
    return Unavailable(
        Reason.CONNECTION_LOST,
        f"the connection to {address} broke during the call, which may or may not have been carried out; look "
        "before you repeat it",
    )


def explain_unimplemented(method: str | bytes, address: str) -> Unimplemented:
    """What a bare UNIMPLEMENTED means: gRPC itself says it of a service that a server does not have.

    Args:
        method: what was called, `/package.Service/Method`; grpcio has bytes where its annotations say str.
        address: `host:port` that was called.
    """
    path = method.decode() if isinstance(method, bytes) else method
    service = path.split("/")[1].rpartition(".")[2]
    expected = (
        "an execution server (8443 by default)"
        if service == "IntegrationService"
        else "the certificate service (by default 8442 for one-way TLS, 8444 for mTLS)"
    )
    return Unimplemented(Reason.METHOD_UNKNOWN, f"{address} has no {service}; it is not {expected}")


def material_fault(tls: TlsMaterial) -> str | None:
    """What is wrong with a client's own certificate, key or CA file, and what to do; None if nothing is seen."""
    # Imported here since it takes a tenth of a second, and is needed only when something went wrong.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        x509.load_pem_x509_certificates(tls.authorities)
    except ValueError:
        return "the CA file is not PEM certificates; get it again with `handclasp trust fetch`"
    if tls.certificate is None or tls.key is None:
        return None
    try:
        leaf = x509.load_pem_x509_certificates(tls.certificate)[0]
    except ValueError:
        return "the client certificate file is not PEM certificates; download it again"
    try:
        key = load_pem_private_key(tls.key, None)
    except TypeError:
        return "the private key is encrypted; decrypt it into a file of your own with `openssl pkey` first"
    except (ValueError, UnsupportedAlgorithm):
        return "the private key file is not a PEM private key; check that it is the right file"
    if key.public_key() != leaf.public_key():
        return "the private key does not belong to the client certificate; check that the two files are a pair"
    return _validity_fault(leaf)


def _validity_fault(leaf: x509.Certificate) -> str | None:
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc < now:
        return f"the client certificate expired at {_moment(leaf.not_valid_after_utc)}; have a new one issued"
    if leaf.not_valid_before_utc > now:
        return (
            f"the client certificate is valid only from {_moment(leaf.not_valid_before_utc)}; wait, or check this "
            "machine's clock"
        )
    return None


def _handshake_refused(address: str, tls: TlsMaterial) -> HandclaspError:
    refused = f"{address} ended the TLS handshake"
    if tls.certificate is None:
        return Unauthenticated(
            Reason.HANDSHAKE_REFUSED,
            f"{refused}: no client certificate was presented, and that port wants one; give certificate and key, or "
            "log in by password at the certificate service's one-way TLS port (8442 by default)",
        )
    if fault := material_fault(tls):
        return Unauthenticated(Reason.HANDSHAKE_REFUSED, f"{refused}: {fault}")
    return Unavailable(
        Reason.HANDSHAKE_REFUSED,
        f"{refused}, most likely because it does not accept the client certificate ({_described(tls.certificate)}); "
        "check that the server trusts the CA that issued it, that its file has the intermediates after the leaf, and "
        "the port",
    )


def _described(certificate: bytes) -> str:
    from cryptography import x509  # noqa: PLC0415

    leaf = x509.load_pem_x509_certificates(certificate)[0]
    return (
        f"{leaf.subject.rfc4514_string()}, issued by {leaf.issuer.rfc4514_string()}, valid until "
        f"{_moment(leaf.not_valid_after_utc)}"
    )


def _unreachable(address: str, what: str, check: str) -> Unavailable:
    return Unavailable(Reason.SERVER_UNREACHABLE, f"{address} {what}; {check}")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
