"""Making keys and certificates: the service's CAs, its users' leaves, its own server certificates (RFC 5280)."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handclasp.certificate_service.x509.spiffe import user_spiffe_id
from handclasp.errors import FailedPrecondition, Reason, invalid_field

KeyKind = Literal["EC P-256", "EC P-384"]

# Clocks differ, and a certificate should work at once on a machine that is a little behind.
BACKDATED = timedelta(minutes=5)
ROOT_LIFETIME = timedelta(days=20 * 365)
ISSUING_CA_LIFETIME = timedelta(days=10 * 365)

_CURVES: dict[str, ec.EllipticCurve] = {"EC P-256": ec.SECP256R1(), "EC P-384": ec.SECP384R1()}
# The upper bound of X.520 for organization names, in characters.
_MAX_ORGANIZATION = 64
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAX_DNS_NAME = 253

_NO_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def _extension(value: x509.ExtensionType, *, critical: bool) -> x509.Extension[x509.ExtensionType]:
    """An extension encoded once: issuing repeats these unchanged, and encoding them is a good part of its time."""
    return x509.Extension(value.oid, critical, x509.UnrecognizedExtension(value.oid, value.public_bytes()))


_NO_CA = _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
_CA_USAGE = _extension(x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True}), critical=True)
_EC_USAGE = _extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
# TLS 1.2 has cipher suites in which an RSA key decrypts instead of signing.
_RSA_USAGE = _extension(
    x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True, "key_encipherment": True}), critical=True
)
_CLIENT = _extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
_CLIENT_AND_SERVER = _extension(
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
)
_SERVER = _extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate and its private key; the key may be any subclass of the key classes of `cryptography`, so it can
    live in a device."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes = field(repr=False)
    # Read from the certificate once, for every leaf that it signs.
    _name: x509.Name = field(init=False, repr=False, compare=False)
    _not_after: datetime = field(init=False, repr=False, compare=False)
    _key_identifier: x509.Extension[x509.ExtensionType] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        subject_key = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)
        object.__setattr__(self, "_name", self.certificate.subject)
        object.__setattr__(self, "_not_after", self.certificate.not_valid_after_utc)
        object.__setattr__(self, "_key_identifier", _extension(identifier, critical=False))


@dataclass(frozen=True, slots=True)
class LeafSubject:
    """Whom a leaf is for.

    Attributes:
        user_id: at most 63 characters; the common name has room for 64.
        trust_domain: of the URI `spiffe://{trust domain}/user/{user id}`.
        server_names: DNS names and IP addresses, if the user is a server; the leaf then allows serverAuth too.
    """

    user_id: str
    trust_domain: str
    server_names: tuple[str, ...] = ()


def make_root(*, trust_domain: str, now: datetime) -> Authority:
    """A new root CA with a key of its own: P-384, 20 years, one CA below it."""
    key = generate_key("EC P-384")
    name = _ca_name("root", trust_domain)
    extensions = [
        _extension(x509.BasicConstraints(ca=True, path_length=1), critical=True),
        _CA_USAGE,
        _extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False),
        _extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False),
    ]
    not_after = _whole_seconds(now) + ROOT_LIFETIME
    certificate = _sign(
        key,
        issuer=name,
        subject=name,
        public_key=key.public_key(),
        now=now,
        not_after=not_after,
        extensions=extensions,
    )
    return Authority(certificate, key)


def make_issuing_authority(root: Authority, *, trust_domain: str, now: datetime) -> Authority:
    """A new CA below the root, which signs leaves, with a key of its own: P-256.

    Raises:
        FailedPrecondition: `ISSUING_CA_EXPIRED` if the root has.
    """
    key = generate_key("EC P-256")
    certificate = issue_issuing_authority(root, public_key=key.public_key(), trust_domain=trust_domain, now=now)
    return Authority(certificate, key)


def issue_issuing_authority(
    root: Authority, *, public_key: CertificatePublicKeyTypes, trust_domain: str, now: datetime
) -> x509.Certificate:
    """The certificate of a CA below the root, which signs leaves: 10 years, no CA below it. The key must have passed
    `check_client_key`.

    Raises:
        FailedPrecondition: `ISSUING_CA_EXPIRED` if the root has.
    """
    extensions = [
        _extension(x509.BasicConstraints(ca=True, path_length=0), critical=True),
        _CA_USAGE,
        _extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False),
        root._key_identifier,
    ]
    return _sign(
        root.key,
        issuer=root._name,
        subject=_ca_name("issuing CA", trust_domain),
        public_key=public_key,
        now=now,
        not_after=_end(root, now, ISSUING_CA_LIFETIME),
        extensions=extensions,
    )


def issue_leaf(
    authority: Authority,
    *,
    subject: LeafSubject,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """A client certificate for a user. The key must have passed `check_client_key`.

    The validity begins five minutes ago and ends after `lifetime`, or with the authority's own if that is sooner; whole
    seconds, as X.509 has it.

    Raises:
        InvalidArgument: a server name is none.
        FailedPrecondition: `ISSUING_CA_EXPIRED`.
    """
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(user_spiffe_id(subject.trust_domain, subject.user_id))
    ]
    names += [parse_server_name(name) for name in subject.server_names]
    purpose = _CLIENT_AND_SERVER if subject.server_names else _CLIENT
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.user_id)])
    not_after = _end(authority, now, lifetime)
    return _sign_leaf(
        authority,
        name=name,
        alternative=names,
        purpose=purpose,
        public_key=public_key,
        now=now,
        not_after=not_after,
    )


def issue_server_certificate(
    authority: Authority,
    *,
    names: Sequence[str],
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """A certificate for the service's own listeners: serverAuth only, and no user's name in it.

    Raises:
        InvalidArgument: no names, or one that is none.
        FailedPrecondition: `ISSUING_CA_EXPIRED`.
    """
    if not names:
        raise invalid_field("server_names", "There are none. A server certificate needs a DNS name or IP address.")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "handclasp server")])
    alternative = [parse_server_name(name) for name in names]
    not_after = _end(authority, now, lifetime)
    return _sign_leaf(
        authority,
        name=name,
        alternative=alternative,
        purpose=_SERVER,
        public_key=public_key,
        now=now,
        not_after=not_after,
    )


def parse_server_name(text: str) -> x509.DNSName | x509.IPAddress:
    """A DNS name (letters, digits and hyphens, in lower case afterwards) or an IP address. No wildcards.

    Raises:
        InvalidArgument: `FIELD_INVALID` for `server_names`.
    """
    try:
        if "%" not in text:  # the zone of an IPv6 address means something on one machine only
            return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass  # then it is a DNS name, or nothing
    name = text.lower()
    labels = name.split(".")
    if len(name) > _MAX_DNS_NAME or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise invalid_field(
            "server_names",
            f"{text[:_MAX_DNS_NAME]!a} is neither a DNS name nor an IP address. Give names like `orders.example.org` "
            "(no wildcards, no dot at the end, Unicode as `xn--...`) or addresses like `192.0.2.1` and `2001:db8::1`.",
        )
    return x509.DNSName(name)


def canonical_server_name(text: str) -> str:
    """The one form of a server name by which it is compared: an IPv4 address within IPv6 is that IPv4 address.

    Raises:
        InvalidArgument: `FIELD_INVALID` for `server_names`.
    """
    value = parse_server_name(text).value
    mapped = value.ipv4_mapped if isinstance(value, ipaddress.IPv6Address) else None
    return str(mapped or value)


def server_names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """The server names that `issue_leaf` put into a leaf of ours, in their order."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def generate_key(kind: KeyKind) -> ec.EllipticCurvePrivateKey:
    """A new private key."""
    return ec.generate_private_key(_CURVES[kind])


def key_to_pem(key: CertificateIssuerPrivateKeyTypes, passphrase: bytes | None) -> bytes:
    """A private key as PKCS #8 PEM, encrypted if there is a passphrase."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def certificate_pem(*certificates: x509.Certificate) -> str:
    """Certificates as PEM, one after the other, each ended by a line feed: what goes into a bundle or a chain."""
    return "".join(item.public_bytes(serialization.Encoding.PEM).decode("ascii") for item in certificates)


def _ca_name(role: str, trust_domain: str) -> x509.Name:
    # TLS stacks find issuers by name: the random part keeps two installations' CAs apart in one bundle.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:_MAX_ORGANIZATION]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Handclasp {role} {secrets.token_hex(4)}"),
        ]
    )


def _end(authority: Authority, now: datetime, lifetime: timedelta) -> datetime:
    if now >= authority._not_after:
        raise FailedPrecondition(
            Reason.ISSUING_CA_EXPIRED,
            f"The CA's own certificate expired on {authority._not_after:%Y-%m-%d %H:%M:%S} UTC, so it signs nothing "
            "any more. The operator has to give the service a new CA.",
        )
    return min(_whole_seconds(now + lifetime), authority._not_after)


def _sign_leaf(
    authority: Authority,
    *,
    name: x509.Name,
    alternative: Sequence[x509.GeneralName],
    purpose: x509.Extension[x509.ExtensionType],
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    not_after: datetime,
) -> x509.Certificate:
    subject_key = x509.SubjectKeyIdentifier.from_public_key(public_key)
    extensions = [
        _NO_CA,
        _RSA_USAGE if isinstance(public_key, rsa.RSAPublicKey) else _EC_USAGE,
        purpose,
        x509.Extension(subject_key.oid, False, subject_key),
        authority._key_identifier,
        x509.Extension(x509.SubjectAlternativeName.oid, False, x509.SubjectAlternativeName(alternative)),
    ]
    return _sign(
        authority.key,
        issuer=authority._name,
        subject=name,
        public_key=public_key,
        now=now,
        not_after=not_after,
        extensions=extensions,
    )


def _sign(
    key: CertificateIssuerPrivateKeyTypes,
    *,
    issuer: x509.Name,
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    not_after: datetime,
    extensions: list[x509.Extension[x509.ExtensionType]],
) -> x509.Certificate:
    # All at once: each of the builder's methods would copy it, and look through its extensions.
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        # 159 random bits, of the 160 that RFC 5280, section 4.1.2.2 leaves to positive numbers.
        serial_number=x509.random_serial_number(),
        not_valid_before=_naive_utc(_whole_seconds(now) - BACKDATED),
        not_valid_after=_naive_utc(not_after),
        extensions=extensions,
    )
    return builder.sign(key, _hash_for(key))


def _hash_for(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | hashes.SHA384 | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()


def _whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _naive_utc(moment: datetime) -> datetime:
    # As the builder's own methods would store it: UTC, without saying so.
    return moment.astimezone(UTC).replace(tzinfo=None)
