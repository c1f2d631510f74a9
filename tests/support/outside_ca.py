"""Certificate authorities that are not the service's, and the odd certificates that they, or an attacker, might make.

    ca = OutsideCA()                                  # a root: P-256, valid from yesterday for ten years
    leaf = ca.issue("partner")                        # Issued: .certificate, .key, .der, .pem, .key_pem
    below = ca.intermediate("Partner CA").issue()     # .pem is the leaf, then the intermediates, without the root
    ca.issue(not_after=ca.now - timedelta(hours=1))   # expired
    ca.issue(purposes=(SERVER_AUTH,))                 # no clientAuth; purposes=None leaves the extension out
    ca.issue(ca=True)                                 # a CA's certificate
    ca.issue(alternative=[uri("spiffe://example.org/user/alice")])
    self_signed(), version_1(ca), sha1_signed(ca), signature_twin(leaf.certificate), glued_pem(a, b),
    huge_rsa_request(16384), huge_rsa_certificate(16384)

All times are relative to `now`, the real one unless the test has a clock of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.support import der as asn1

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
ANY_PURPOSE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_ORDERS = {"secp256r1": P256_ORDER, "secp384r1": P384_ORDER}

_ECDSA_WITH_SHA1 = bytes.fromhex("06072a8648ce3d0401")
_RSA = bytes.fromhex("06092a864886f70d010101")
_RSA_WITH_SHA256 = bytes.fromhex("06092a864886f70d01010b")

# An extension with an id that means something to nobody, for "unknown and critical".
UNKNOWN_EXTENSION = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), asn1.NULL)


def name(common_name: str) -> x509.Name:
    """A name of one common name; empty for an empty text."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def uri(text: str) -> x509.UniformResourceIdentifier:
    """A URI for `alternative=`."""
    return x509.UniformResourceIdentifier(text)


def key_usage(*bits: str) -> x509.KeyUsage:
    """Key usage with these bits, by their names in `x509.KeyUsage`."""
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in bits for bit in every})


def pem_of(*certificates: x509.Certificate) -> str:
    """Certificates as PEM, one after the other."""
    return "".join(item.public_bytes(serialization.Encoding.PEM).decode() for item in certificates)


def glued_pem(*certificates: x509.Certificate) -> str:
    """Certificates as PEM without the line feeds between them, where gRPC's TLS stack silently stops reading."""
    return "".join(pem_of(item).strip() for item in certificates)


@dataclass(frozen=True)
class Issued:
    """A leaf, its key, and the intermediates above it."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        """The leaf alone."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        """The leaf and then its intermediates."""
        return pem_of(self.certificate, *self.intermediates)

    @property
    def key_pem(self) -> str:
        """The private key, unencrypted PKCS #8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


class OutsideCA:
    """A CA that this trust domain knows nothing of, unless it is made a trust anchor.

    Args:
        common_name: the subject.
        key: P-256 if not given.
        now: what the validities are relative to.
        parent: the CA above; without it, a self-signed root.
        not_before, not_after: from yesterday, for ten years, if not given.
        path_length: pathLenConstraint.
        purposes: extended key usage; CAs mostly have none.
        usage: key usage; None leaves it out, as `openssl req -x509` does.
        basic_constraints: whether to have them at all.
        key_identifiers: whether it, and what it issues, has SKI and AKI.
        extensions: more of them, each with whether it is critical.
    """

    def __init__(
        self,
        common_name: str = "Outside CA",
        *,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        now: datetime | None = None,
        parent: OutsideCA | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        path_length: int | None = None,
        purposes: Sequence[ObjectIdentifier] | None = None,
        usage: x509.KeyUsage | None = key_usage("key_cert_sign", "crl_sign"),  # noqa: B008 - immutable
        basic_constraints: bool = True,
        key_identifiers: bool = True,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> None:
        self.now = now or datetime.now(UTC)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = name(common_name)
        self.parent = parent
        self.key_identifiers = key_identifiers
        signer = parent or self
        wanted = [*extensions]
        if basic_constraints:
            wanted.append((x509.BasicConstraints(ca=True, path_length=path_length), True))
        if usage is not None:
            wanted.append((usage, True))
        if purposes is not None:
            wanted.append((x509.ExtendedKeyUsage(purposes), False))
        if key_identifiers:
            wanted.append((x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False))
        self.certificate = signer._sign(
            self.name,
            self.key,
            not_before or self.now - timedelta(days=1),
            not_after or self.now + timedelta(days=3650),
            wanted,
        )

    @property
    def pem(self) -> str:
        """The CA's own certificate."""
        return pem_of(self.certificate)

    @property
    def der(self) -> bytes:
        """The CA's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """What has to be sent after a leaf of this CA: its own certificate and those above, without the root."""
        return () if self.parent is None else (self.certificate, *self.parent.intermediates)

    def intermediate(
        self,
        common_name: str = "Outside intermediate CA",
        *,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        path_length: int | None = None,
        purposes: Sequence[ObjectIdentifier] | None = None,
        usage: x509.KeyUsage | None = key_usage("key_cert_sign", "crl_sign"),  # noqa: B008 - immutable
        basic_constraints: bool = True,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> OutsideCA:
        """A CA below this one; arguments as of the class."""
        return OutsideCA(
            common_name,
            key=key,
            now=self.now,
            parent=self,
            not_before=not_before,
            not_after=not_after,
            path_length=path_length,
            purposes=purposes,
            usage=usage,
            basic_constraints=basic_constraints,
            key_identifiers=self.key_identifiers,
            extensions=extensions,
        )

    def issue(
        self,
        common_name: str = "partner",
        *,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        purposes: Sequence[ObjectIdentifier] | None = (CLIENT_AUTH,),
        usage: x509.KeyUsage | None = key_usage("digital_signature"),  # noqa: B008 - immutable
        ca: bool | None = False,
        alternative: Sequence[x509.GeneralName] = (),
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        rsa_padding: padding.PSS | None = None,
        signature_hash: hashes.SHA256 | hashes.SHA512 | hashes.SHA3_256 | None = None,
        serial: int | None = None,
    ) -> Issued:
        """A leaf, fit for uploading unless the arguments make it otherwise.

        Args:
            key: a new P-256 one if not given.
            not_before, not_after: from yesterday, for 30 days, if not given.
            purposes, usage: extended key usage and key usage; None leaves the extension out.
            ca: BasicConstraints; None leaves them out.
            alternative: subject alternative names; none, no extension.
            rsa_padding, signature_hash: for CAs with RSA keys, and for uncommon hashes.
            serial: a random one if not given.
        """
        own_key = key or ec.generate_private_key(ec.SECP256R1())
        wanted = [*extensions]
        if ca is not None:
            wanted.append((x509.BasicConstraints(ca=ca, path_length=None), True))
        if usage is not None:
            wanted.append((usage, True))
        if purposes is not None:
            wanted.append((x509.ExtendedKeyUsage(purposes), False))
        if alternative:
            wanted.append((x509.SubjectAlternativeName(alternative), False))
        certificate = self._sign(
            name(common_name),
            own_key,
            not_before or self.now - timedelta(days=1),
            not_after or self.now + timedelta(days=30),
            wanted,
            rsa_padding=rsa_padding,
            signature_hash=signature_hash,
            serial=serial,
        )
        return Issued(certificate, own_key, self.intermediates)

    def _sign(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        not_before: datetime,
        not_after: datetime,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        *,
        rsa_padding: padding.PSS | None = None,
        signature_hash: hashes.SHA256 | hashes.SHA512 | hashes.SHA3_256 | None = None,
        serial: int | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        if self.key_identifiers and not any(isinstance(item, x509.AuthorityKeyIdentifier) for item, _ in extensions):
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        for value, critical in extensions:
            builder = builder.add_extension(value, critical=critical)
        hashless = isinstance(self.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        return builder.sign(self.key, None if hashless else signature_hash or hashes.SHA256(), rsa_padding=rsa_padding)


def self_signed(common_name: str = "partner", *, now: datetime | None = None, ca: bool | None = None) -> Issued:
    """What `openssl req -x509` makes, with CA:TRUE if `ca`: signed by its own key."""
    maker = OutsideCA(common_name, now=now)
    return maker.issue(common_name, key=maker.key, ca=ca)


def version_1(ca: OutsideCA) -> Issued:
    """A certificate of version 1: no extensions at all. The CA's key is P-256."""
    leaf = ca.issue()
    parts = asn1.children(leaf.certificate.tbs_certificate_bytes)
    return Issued(_resigned(asn1.sequence(*parts[1:-1]), ca, parts[2], hashes.SHA256()), leaf.key)


def sha1_signed(ca: OutsideCA) -> Issued:
    """A certificate with a true ecdsa-with-SHA1 signature, which libraries no longer make. The CA's key is P-256."""
    leaf = ca.issue()
    parts = asn1.children(leaf.certificate.tbs_certificate_bytes)
    algorithm = asn1.sequence(_ECDSA_WITH_SHA1)
    tbs = asn1.sequence(*parts[:2], algorithm, *parts[3:])
    return Issued(_resigned(tbs, ca, algorithm, hashes.SHA1()), leaf.key)  # noqa: S303 - that is the point


def _resigned(tbs: bytes, ca: OutsideCA, algorithm: bytes, digest: hashes.HashAlgorithm) -> x509.Certificate:
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    signature = ca.key.sign(tbs, ec.ECDSA(digest))
    return x509.load_der_x509_certificate(asn1.sequence(tbs, algorithm, asn1.bit_string(signature)))


def signature_twin(certificate: x509.Certificate) -> bytes:
    """The certificate's DER with its ECDSA signature (r, s) rewritten to (r, n - s).

    As valid as the first, with the same key, serial and TBS, and made without any private key.

    Args:
        certificate: signed by a CA with a P-256 key and SHA-256, or with a P-384 key and SHA-384 (as this service's).
    """
    curve = "secp384r1" if isinstance(certificate.signature_hash_algorithm, hashes.SHA384) else "secp256r1"
    r, s = decode_dss_signature(certificate.signature)
    tbs, algorithm, _ = asn1.children(certificate.public_bytes(serialization.Encoding.DER))
    return asn1.sequence(tbs, algorithm, asn1.bit_string(encode_dss_signature(r, _ORDERS[curve] - s)))


def pem_block(label: str, content: bytes) -> str:
    """Any bytes as a PEM block."""
    text = base64.b64encode(content).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def rsa_key_info(modulus: int, exponent: int = 65537) -> bytes:
    """A SubjectPublicKeyInfo with any numbers in it."""
    return asn1.sequence(
        asn1.sequence(_RSA, asn1.NULL), asn1.bit_string(asn1.sequence(asn1.integer(modulus), asn1.integer(exponent)))
    )


def huge_rsa_request(bits: int, *, exponent: int = 65537) -> bytes:
    """The DER of a signing request with an RSA key of so many bits, and a signature that is not one."""
    subject = asn1.children(OutsideCA().certificate.tbs_certificate_bytes)[5]
    modulus = (1 << bits) - 1
    info = asn1.sequence(asn1.integer(0), subject, rsa_key_info(modulus, exponent), asn1.tlv(0xA0, b""))
    return asn1.sequence(info, asn1.sequence(_RSA_WITH_SHA256, asn1.NULL), asn1.bit_string(b"\x01" * (bits // 8)))


def huge_rsa_certificate(bits: int, *, exponent: int = 65537, like: x509.Certificate | None = None) -> bytes:
    """The DER of a certificate with an RSA key of so many bits, otherwise like another one, under its old signature."""
    model = like or OutsideCA().issue().certificate
    tbs, algorithm, signature = asn1.children(model.public_bytes(serialization.Encoding.DER))
    parts = asn1.children(tbs)
    parts[6] = rsa_key_info((1 << bits) - 1, exponent)
    return asn1.sequence(asn1.sequence(*parts), algorithm, signature)


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A new RSA key. Slow above 4,096 bits."""
    return rsa.generate_private_key(65537, bits)
