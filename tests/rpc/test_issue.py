"""IssueCertificate: what is in the certificate, what of the request is not, and where the key is."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.csr import make_key_and_request
from handclasp.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from tests.rpc.certificate_harness import (
    TRUST_DOMAIN,
    beside,
    counts,
    der,
    everything_stored,
    pem,
    refusal,
    signing_request,
    why,
)
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import huge_rsa_request, key_usage, pem_block, rsa_key, uri

pytestmark = pytest.mark.asyncio(loop_scope="module")

MONTH = timedelta(days=30)


def request(user_id: str, **fields: Any) -> pb.IssueCertificateRequest:
    """For a new key, unless the fields name one."""
    if not {"csr_pem", "csr_der", "generate_key"} & fields.keys():
        fields["csr_pem"] = pem(signing_request())
    return pb.IssueCertificateRequest(user=f"users/{user_id}", **fields)


def leaf_of(certificate: certificate_pb2.Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(certificate.pem.encode())[0]


def extensions(certificate: x509.Certificate) -> Mapping[str, tuple[bool, Any]]:
    return {item.oid._name: (item.critical, item.value) for item in certificate.extensions}


async def test_a_leaf_holds_what_is_promised_and_nothing_else(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    key = ec.generate_private_key(ec.SECP256R1())

    issued = await installation.admin.certificates.IssueCertificate(
        request(alice, csr_pem=pem(signing_request(key)), description="laptop", labels={"team": "orders"})
    )

    certificate = issued.certificate
    leaf, issuing = x509.load_pem_x509_certificates(certificate.pem.encode())
    root = x509.load_pem_x509_certificate(installation.ca_pem)
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    assert leaf.version is x509.Version.v3
    assert leaf.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, alice)])
    assert leaf.public_key() == key.public_key()
    found = extensions(leaf)
    assert found == {
        "basicConstraints": (True, x509.BasicConstraints(ca=False, path_length=None)),
        "keyUsage": (True, key_usage("digital_signature")),
        "extendedKeyUsage": (False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        "subjectKeyIdentifier": (False, x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
        "authorityKeyIdentifier": (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
        ),
        "subjectAltName": (False, x509.SubjectAlternativeName([uri(f"spiffe://{TRUST_DOMAIN}/user/{alice}")])),
    }

    assert issued.key_custody == pb.KEY_CUSTODY_CALLER_HELD
    assert not issued.private_key_pem
    assert certificate.user == f"users/{alice}"
    assert certificate.origin == certificate_pb2.Certificate.ORIGIN_SIGNED
    assert certificate.state == certificate_pb2.Certificate.STATE_ACTIVE
    assert certificate.serial == f"{leaf.serial_number:x}"
    assert certificate.fingerprint == leaf.fingerprint(hashes.SHA256()).hex()
    assert certificate.subject == f"CN={alice}"
    assert certificate.issuer == issuing.subject.rfc4514_string()
    assert certificate.key_algorithm == "EC P-256"
    assert (certificate.description, dict(certificate.labels)) == ("laptop", {"team": "orders"})
    assert certificate.not_before.seconds == leaf.not_valid_before_utc.timestamp()
    assert certificate.not_after.seconds == leaf.not_valid_after_utc.timestamp()
    assert not certificate.HasField("revocation")


async def test_lifetimes_are_from_now_and_backdated_five_minutes(installation: Installation) -> None:
    alice = await installation.new_user()
    for wanted, expected in ((None, timedelta(days=90)), (MONTH, MONTH), (timedelta(minutes=1), timedelta(minutes=1))):
        issued = await installation.admin.certificates.IssueCertificate(request(alice, lifetime=wanted))
        created = issued.certificate.create_time.seconds
        assert created - issued.certificate.not_before.seconds == 300
        assert issued.certificate.not_after.seconds - created in {
            expected.total_seconds(),
            expected.total_seconds() + 1,
        }


@pytest.mark.parametrize(
    "lifetime",
    [timedelta(seconds=59), timedelta(0), timedelta(days=-1), timedelta(days=90, seconds=1), timedelta(days=99999)],
)
async def test_other_lifetimes_are_refused(installation: Installation, lifetime: timedelta) -> None:
    alice = await installation.new_user()
    error = await refusal(
        installation.admin.certificates.IssueCertificate(request(alice, lifetime=lifetime)),
        InvalidArgument,
        "LIFETIME_NOT_ACCEPTED",
    )
    assert [violation.field for violation in error.violations] == ["lifetime"]


async def test_serials_are_159_random_bits(installation: Installation) -> None:
    alice = await installation.new_user()
    serials = {leaf_serial(await installation.issue(alice)) for _ in range(12)}
    assert len(serials) == 12
    assert max(serial.bit_length() for serial in serials) <= 159
    # Of twelve with a random top, one at least has one of its first eight bits set; all but once in 2**96.
    assert max(serial.bit_length() for serial in serials) > 151
    # Nor is there anything in common where a counter or a clock would stand.
    for shift in (0, 128):
        assert len({serial >> shift & 0xFFFFFF for serial in serials}) == 12


def leaf_serial(identity: Identity) -> int:
    return identity.leaf.serial_number


async def test_only_the_key_is_taken_from_the_request(installation: Installation) -> None:
    alice = await installation.new_user()
    wishes = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]), True),
        (x509.SubjectAlternativeName([uri(f"spiffe://{TRUST_DOMAIN}/user/admin"), x509.DNSName("localhost")]), False),
    ]
    key = ec.generate_private_key(ec.SECP384R1())
    plain = await installation.issue(alice)

    issued = await installation.admin.certificates.IssueCertificate(
        request(alice, csr_der=der(signing_request(key, subject="admin", extensions=wishes)))
    )

    leaf = leaf_of(issued.certificate)
    assert leaf.public_key() == key.public_key()
    assert leaf.subject == plain.leaf.subject
    of_the_key = {"subjectKeyIdentifier"}
    ours, others = extensions(leaf), extensions(plain.leaf)
    assert ours.keys() == others.keys()
    assert {oid: ours[oid] for oid in ours.keys() - of_the_key} == {
        oid: others[oid] for oid in others.keys() - of_the_key
    }


async def test_rsa_keys_may_decipher_too(installation: Installation) -> None:
    alice = await installation.new_user()
    issued = await installation.admin.certificates.IssueCertificate(
        request(alice, csr_der=der(signing_request(rsa_key(2048))))
    )
    usage = leaf_of(issued.certificate).extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage == key_usage("digital_signature", "key_encipherment")
    assert issued.certificate.key_algorithm == "RSA 2048"


@pytest.mark.parametrize(
    ("algorithm", "curve", "shown"),
    [
        (pb.KEY_ALGORITHM_UNSPECIFIED, "secp256r1", "EC P-256"),
        (pb.KEY_ALGORITHM_EC_P256, "secp256r1", "EC P-256"),
        (pb.KEY_ALGORITHM_EC_P384, "secp384r1", "EC P-384"),
    ],
)
async def test_a_key_made_by_the_service_is_returned_and_works(
    installation: Installation, algorithm: pb.KeyAlgorithm.ValueType, curve: str, shown: str
) -> None:
    alice = await installation.new_user("regular-user")
    issued = await installation.admin.certificates.IssueCertificate(request(alice, generate_key=algorithm))
    assert issued.key_custody == pb.KEY_CUSTODY_RETURNED
    assert issued.certificate.origin == certificate_pb2.Certificate.ORIGIN_GENERATED
    assert issued.certificate.key_algorithm == shown
    key = load_pem_private_key(issued.private_key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == curve
    assert key.public_key() == leaf_of(issued.certificate).public_key()
    identity = Identity(issued.certificate.name, issued.certificate.pem.encode(), issued.private_key_pem.encode())
    async with installation.client(identity) as client:
        found = await client.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))
    assert found.fingerprint == issued.certificate.fingerprint


async def test_a_key_made_by_the_service_is_found_nowhere_afterwards(
    installation: Installation, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the log, nor in what the process says otherwise, nor in the database, nor in any file."""
    alice = await installation.new_user()
    issued = await installation.admin.certificates.IssueCertificate(
        request(alice, generate_key=pb.KEY_ALGORITHM_EC_P256, request_id="only-once")
    )
    key = load_pem_private_key(issued.private_key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value
    raw = secret.to_bytes(32, "big")
    traces = [
        raw,
        raw.hex().encode(),
        str(secret).encode(),
        base64.b64encode(raw),
        *(line.encode() for line in issued.private_key_pem.splitlines()[1:-1]),
    ]

    async with beside(installation) as database:
        stored = await everything_stored(database)
    assert issued.certificate.fingerprint.encode() in stored
    output = "".join(capfd.readouterr()) + caplog.text + installation.log.read_text()
    assert issued.certificate.serial in output, "the log is looked at, and says what was issued"
    places = {"log": output.encode(), "database": stored}
    files = [path for path in installation.settings.data_dir.parent.rglob("*") if path.is_file()]
    files += [path for path in _database_files(installation) if path.is_file()]
    assert files
    places |= {str(path): path.read_bytes() for path in files}
    found = [place for place, content in places.items() for trace in traces if trace in content]
    assert not found


def _database_files(installation: Installation) -> list[Path]:
    """Of SQLite, with the write-ahead log; none of PostgreSQL, whose tables were read instead."""
    url = installation.settings.url()
    if not url.startswith("sqlite"):
        return []
    path = Path(url.partition(":///")[2])
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-journal")]


async def test_a_retry_after_a_generated_key_returns_the_certificate_without_it(installation: Installation) -> None:
    alice = await installation.new_user()
    wanted = request(alice, generate_key=pb.KEY_ALGORITHM_EC_P256, request_id="f2c1")
    first = await installation.admin.certificates.IssueCertificate(wanted)
    again = await installation.admin.certificates.IssueCertificate(wanted)
    assert again.certificate == first.certificate
    assert again.key_custody == pb.KEY_CUSTODY_KEY_NOT_RETAINED
    assert again.private_key_pem == ""


async def test_who_issued_is_recorded_and_with_which_certificate(installation: Installation) -> None:
    alice = await installation.new_user("regular-user", password="a long enough password")
    by_password_request = request(alice)
    async with installation.client(user=alice, password="a long enough password") as client:
        by_password = await client.certificates.IssueCertificate(by_password_request)
    assert by_password.certificate.created_by == f"users/{alice}"
    assert by_password.certificate.created_with == ""

    identity = await installation.issue(alice)
    async with installation.client(identity) as client:
        by_certificate = await client.certificates.IssueCertificate(request(alice))
        stored = await client.certificates.GetCertificate(
            pb.GetCertificateRequest(name=by_certificate.certificate.name)
        )
    assert stored.created_by == f"users/{alice}"
    assert stored.created_with == identity.name

    by_admin = await installation.admin.certificates.IssueCertificate(request(alice))
    assert by_admin.certificate.created_by == "users/admin"
    assert by_admin.certificate.created_with.startswith("certificates/")


async def test_to_whom_certificates_are_issued(installation: Installation) -> None:
    admin = installation.admin.certificates
    await refusal(admin.IssueCertificate(request("nobody-here")), NotFound, "USER_NOT_FOUND")
    gone = await installation.new_user("regular-user")
    await installation.admin.accounts.DisableUser(account_service_pb2.DisableUserRequest(name=f"users/{gone}"))
    await refusal(admin.IssueCertificate(request(gone)), FailedPrecondition, "USER_IS_DISABLED")


async def test_who_may_issue(installation: Installation) -> None:
    regular = await installation.new_user("regular-user")
    bob = await installation.new_user()
    manager = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
    async with installation.client(await installation.issue(regular)) as client:
        await client.certificates.IssueCertificate(request(regular))
        await refusal(client.certificates.IssueCertificate(request(bob)), PermissionDenied, "ACCESS_DENIED")
        # Nothing tells a user that is there from one that is not.
        await refusal(client.certificates.IssueCertificate(request("nobody-here")), PermissionDenied, "ACCESS_DENIED")
    async with installation.client(await installation.issue(bob)) as client:
        await refusal(client.certificates.IssueCertificate(request(bob)), PermissionDenied, "ACCESS_DENIED")
    async with installation.client(await installation.issue(manager)) as client:
        await client.certificates.IssueCertificate(request(bob))
        await refusal(
            client.certificates.IssueCertificate(request("admin")), PermissionDenied, "ADMINISTRATOR_PROTECTED"
        )


def _tampered() -> bytes:
    """A request whose signature is that of another one."""
    encoded = bytearray(der(signing_request(subject="somebody")))
    where = encoded.index(b"somebody")
    encoded[where : where + 8] = b"sOmebody"
    return bytes(encoded)


BAD_REQUESTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"csr_pem": ""}, "CSR_INVALID"),
    "garbage": ({"csr_pem": "no request"}, "CSR_INVALID"),
    "a certificate's label": ({"csr_pem": pem_block("CERTIFICATE", der(signing_request()))}, "CSR_INVALID"),
    "two": ({"csr_pem": pem(signing_request()) * 2}, "CSR_INVALID"),
    "cut short": ({"csr_der": der(signing_request())[:-1]}, "CSR_INVALID"),
    "with something after it": ({"csr_der": der(signing_request()) + b"\0"}, "CSR_INVALID"),
    "too large": ({"csr_pem": "x" * 65_537}, "CSR_INVALID"),
    "a private key": ({"csr_pem": make_key_and_request().key_pem.decode()}, "CSR_INVALID"),
    "a signature that is another's": ({"csr_der": _tampered()}, "CSR_SIGNATURE_INVALID"),
    "RSA 1024": (
        {"csr_der": der(signing_request(rsa.generate_private_key(65537, 1024)))},  # noqa: S505 - to be refused
        "KEY_NOT_ACCEPTED",
    ),
    "RSA 16384": ({"csr_der": huge_rsa_request(16384)}, "KEY_NOT_ACCEPTED"),
    "EC P-521": ({"csr_der": der(signing_request(ec.generate_private_key(ec.SECP521R1())))}, "KEY_NOT_ACCEPTED"),
    "Ed25519": (
        {
            "csr_der": x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(ed25519.Ed25519PrivateKey.generate(), None)
            .public_bytes(serialization.Encoding.DER)
        },
        "KEY_NOT_ACCEPTED",
    ),
    "no such kind of key": ({"generate_key": 7}, "FIELD_INVALID"),
    "a description that is too long": ({"description": "x" * 1001}, "FIELD_INVALID"),
    "a description with a bell": ({"description": "\a"}, "FIELD_INVALID"),
    "a label that is no name": ({"labels": {"Team": "a"}}, "FIELD_INVALID"),
    "too many labels": ({"labels": {f"l{index}": "" for index in range(33)}}, "FIELD_INVALID"),
    "a label's value that is too long": ({"labels": {"team": "x" * 257}}, "FIELD_INVALID"),
    "a request id with a space": ({"request_id": "a b"}, "FIELD_INVALID"),
    "a request id that is too long": ({"request_id": "x" * 129}, "FIELD_INVALID"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_bad_requests_are_refused_with_their_reason_and_change_nothing(
    installation: Installation, what: str
) -> None:
    fields, reason = BAD_REQUESTS[what]
    alice = await installation.new_user()
    async with beside(installation) as database:
        before = await counts(database)
        await refusal(
            installation.admin.certificates.IssueCertificate(request(alice, **fields)), InvalidArgument, reason
        )
        assert await counts(database) == before


async def test_without_a_key_there_is_no_certificate(installation: Installation) -> None:
    alice = await installation.new_user()
    error = await refusal(
        installation.admin.certificates.IssueCertificate(pb.IssueCertificateRequest(user=f"users/{alice}")),
        InvalidArgument,
        "FIELD_INVALID",
    )
    assert [violation.field for violation in error.violations] == ["key_source"]


async def test_what_was_issued_is_good_at_once(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    assert await why(installation, (await installation.issue(alice)).der) == "ALLOWED"
