"""What the `cert` commands do: keys, files and calls in the order in which nothing gets lost."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate, RevocationReason
from handclasp.cli.csr import KeyKind
from handclasp.cli.output import moment, print_details
from handclasp.cli.session import Session
from handclasp.cli.values import enum_name
from handclasp.client import files
from handclasp.client.csr import KeyAndRequest, make_key_and_request
from handclasp.client.issuing import issue
from handclasp.client.names import resource_id
from handclasp.client.pem import pem_text
from handclasp.client.possession import make_statement, sign_statement
from handclasp.client.private_key import load_private_key, read_public
from handclasp.client.renewing import renew
from handclasp.client.retries import may_have_been_done, repeat_if_lost
from handclasp.errors import Aborted, HandclaspError, Reason, invalid_field

if TYPE_CHECKING:
    from handclasp.client.client import HandclaspClient

CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"

_KEY_KINDS = {KeyKind.P256: messages.KEY_ALGORITHM_EC_P256, KeyKind.P384: messages.KEY_ALGORITHM_EC_P384}


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued certificate, and where it was written."""

    certificate: Certificate
    certificate_file: Path
    key_file: Path | None


async def issue_with_local_key(
    session: Session, request: messages.IssueCertificateRequest, key_kind: KeyKind, folder: Path
) -> Issued:
    """Issues for a key that is made here, and is on disk before anything is sent."""
    files.refuse_existing((folder / CERTIFICATE_FILE, folder / KEY_FILE))
    made = make_key_and_request(resource_id(request.user), key_kind.value)
    request.csr_pem = made.csr_pem.decode()

    async def send(client: HandclaspClient) -> Certificate:
        return (await issue(client, request)).certificate

    return await _for_local_key(session.client(), made, folder, send, request.user)


async def renew_with_local_key(
    client: HandclaspClient, request: messages.RenewCertificateRequest, key_kind: KeyKind, folder: Path
) -> Issued:
    """Renews what the client presents, for a key that is made here, and is on disk before anything is sent."""
    files.refuse_existing((folder / CERTIFICATE_FILE, folder / KEY_FILE))
    made = make_key_and_request(curve=key_kind.value)
    request.csr_pem = made.csr_pem.decode()
    return await _for_local_key(client, made, folder, lambda client: renew(client, request))


async def _for_local_key(
    client: HandclaspClient,
    made: KeyAndRequest,
    folder: Path,
    send: Callable[[HandclaspClient], Awaitable[Certificate]],
    user: str = "",
) -> Issued:
    """Writes the key, sends, and writes the certificate; the key is kept if one may have been issued."""
    certificate_file, key_file = folder / CERTIFICATE_FILE, folder / KEY_FILE
    with files.folder_for_new_files(folder), files.NewFile(key_file, files.SECRET_MODE) as key:
        key.fill(made.key_pem)
        try:
            async with client:
                certificate = await send(client)
        except HandclaspError as error:
            if may_have_been_done(error):
                raise _perhaps_issued(error, user, f"the private key is kept in {key_file}") from error
            key.discard()
            raise
    _write_certificate(certificate_file, certificate)
    return Issued(certificate, certificate_file, key_file)


async def issue_with_server_key(
    session: Session, request: messages.IssueCertificateRequest, key_kind: KeyKind, folder: Path
) -> Issued:
    """Issues with a key that the service makes; where it goes is made sure of first."""
    certificate_file, key_file = folder / CERTIFICATE_FILE, folder / KEY_FILE
    files.refuse_existing((certificate_file, key_file))
    request.generate_key = _KEY_KINDS[key_kind]
    client = session.client()
    with files.folder_for_new_files(folder), files.NewFile(key_file, files.SECRET_MODE) as key:
        try:
            async with client:
                answer = await issue(client, request)
        except HandclaspError as error:
            if may_have_been_done(error):
                raise _perhaps_issued(error, request.user, "its key is lost") from error
            raise
        if answer.key_custody != messages.KEY_CUSTODY_RETURNED:
            raise Aborted(Reason.KEY_NOT_RETAINED, f"the answer with the private key was lost; {_revoke(answer)}")
        with _or_revoke(answer):
            key.fill(answer.private_key_pem.encode())
    _write_certificate(certificate_file, answer.certificate)
    return Issued(answer.certificate, certificate_file, key_file)


async def issue_for_request(
    session: Session, request: messages.IssueCertificateRequest, csr_file: Path, folder: Path
) -> Issued:
    """Issues for the key in a certificate signing request."""
    certificate_file = folder / CERTIFICATE_FILE
    files.refuse_existing((certificate_file,))
    content = read_public(csr_file, "the certificate signing request")
    if (pem := pem_text(content)) is not None:
        request.csr_pem = pem
    else:
        request.csr_der = content
    client = session.client()
    with files.folder_for_new_files(folder):
        try:
            async with client:
                answer = await issue(client, request)
        except HandclaspError as error:
            if may_have_been_done(error):
                raise _perhaps_issued(error, request.user, f"its key is the one of {csr_file}") from error
            raise
    _write_certificate(certificate_file, answer.certificate)
    return Issued(answer.certificate, certificate_file, None)


async def upload(
    session: Session, request: messages.UploadCertificateRequest, file: Path, key_file: Path | None
) -> Certificate:
    """Uploads a certificate, with a proof that one holds its key if the key is given."""
    content = read_public(file, "the certificate")
    if (pem := pem_text(content)) is not None:
        request.pem = pem
    else:
        request.der = content
    key = None if key_file is None else load_private_key(key_file)
    request.request_id = str(uuid.uuid4())
    async with session.client() as client:
        if key is not None:
            bundle = await client.certificates.GetTrustBundle(messages.GetTrustBundleRequest())
            statement = make_statement(
                trust_domain=bundle.trust_domain,
                user_id=resource_id(request.user),
                fingerprint=_leaf(file, content).fingerprint(hashes.SHA256()).hex(),
                signed_at=datetime.now(UTC),
            )
            request.possession_proof.statement = statement
            request.possession_proof.signature = sign_statement(key, statement)
        return await repeat_if_lost(lambda: client.certificates.UploadCertificate(request))


def summary(certificate: Certificate) -> tuple[str, str, str, str]:
    """Id, user, state, expiry: a line of a list."""
    return (
        resource_id(certificate.name),
        resource_id(certificate.user),
        enum_name(Certificate.State, certificate.state, "STATE_"),
        moment(certificate.not_after),
    )


def print_certificate(certificate: Certificate) -> None:
    """All of a certificate but its PEM, for people."""
    revocation = certificate.revocation
    revoked = ""
    if certificate.HasField("revocation"):
        why = enum_name(RevocationReason, revocation.reason, "REVOCATION_REASON_")
        revoked = f"{moment(revocation.revoke_time)} by {revocation.revoked_by}: {why}"
    held = ""
    if certificate.HasField("hold"):
        held = f"{moment(certificate.hold.hold_time)} by {certificate.hold.held_by}"
    print_details(
        certificate.name,
        (
            ("user", certificate.user),
            ("state", enum_name(Certificate.State, certificate.state, "STATE_")),
            ("revoked", revoked),
            ("on hold since", held),
            ("origin", enum_name(Certificate.Origin, certificate.origin, "ORIGIN_")),
            ("valid from", moment(certificate.not_before)),
            ("expires", moment(certificate.not_after)),
            ("serial", certificate.serial),
            ("fingerprint", certificate.fingerprint),
            ("subject", certificate.subject),
            ("issuer", certificate.issuer),
            ("key", certificate.key_algorithm),
            ("description", certificate.description),
            ("labels", "\n".join(f"{key}={value}" for key, value in sorted(certificate.labels.items()))),
            ("created", moment(certificate.create_time)),
            ("created by", certificate.created_by),
            ("created with", certificate.created_with),
            ("renewed from", certificate.renewed_from),
        ),
    )


def _leaf(file: Path, content: bytes) -> x509.Certificate:
    try:
        if pem_text(content) is not None:
            return x509.load_pem_x509_certificates(content)[0]
        return x509.load_der_x509_certificate(content)
    except ValueError:
        raise invalid_field(
            "certificate", f"{file} is neither PEM nor DER of a certificate; check the file", Reason.CERTIFICATE_INVALID
        ) from None


def _write_certificate(path: Path, certificate: Certificate) -> None:
    try:
        files.write_new(path, certificate.pem.encode(), files.PUBLIC_MODE)
    except HandclaspError as error:
        certificate_id = resource_id(certificate.name)
        message = (
            f"{error.message}. The certificate is issued; get it with "
            f"`handclasp cert download {certificate_id} --out {path}`"
        )
        raise type(error)(error.reason, message) from error


@contextlib.contextmanager
def _or_revoke(answer: messages.IssueCertificateResponse) -> Iterator[None]:
    try:
        yield
    except HandclaspError as error:
        raise type(error)(error.reason, f"{error.message}. The private key is lost; {_revoke(answer)}") from error


def _revoke(answer: messages.IssueCertificateResponse) -> str:
    certificate_id = resource_id(answer.certificate.name)
    return f"run `handclasp cert revoke {certificate_id}`, and issue another one"


def _perhaps_issued(error: HandclaspError, user: str, key: str) -> HandclaspError:
    look = f"handclasp cert list --user {resource_id(user)}" if user else "handclasp cert list"
    message = (
        f"{error.message}. A certificate may have been issued, and {key}; look with `{look}`, then download or revoke"
        " it"
    )
    return type(error)(error.reason, message, metadata=error.metadata, retry_after=error.retry_after)
