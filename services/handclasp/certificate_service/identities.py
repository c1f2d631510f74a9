"""Identities of this installation's own users, kept in the data folder: the first administrator's, the execution
server's. Each is a folder with `cert.pem` and `key.pem`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handclasp.certificate_service.domain.certificates import CertificateFilter, CertificateState
from handclasp.certificate_service.service import Service
from handclasp.certificate_service.use_cases.caller import the_service_itself
from handclasp.certificate_service.use_cases.issue_certificate import IssueRequest
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.certificate_service.x509.issuing import (
    certificate_pem,
    generate_key,
    key_to_pem,
    parse_server_name,
    server_names_of,
)
from handclasp.serving.files import write_atomically, write_secret

CERTIFICATE = "cert.pem"
KEY = "key.pem"


async def ensure_identity(service: Service, user_id: str, *, server_names: tuple[str, ...] = ()) -> Path:
    """The newest folder whose certificate has these server names, at least a third of its life left, and is in force;
    else a new one.

    Returns:
        The folder, below `identities/{user}/` in the data folder.
    Raises:
        NotFound, FailedPrecondition: there is no such user, or it is disabled.
    """
    base = service.settings.data_dir / "identities" / user_id
    for folder in sorted(_folders(base), reverse=True):
        if await _will_do(service, folder, server_names):
            return folder
    return await _new_identity(service, base, user_id, server_names)


def _folders(base: Path) -> list[Path]:
    if not base.exists():
        return []
    return [path for path in base.iterdir() if (path / CERTIFICATE).exists() and (path / KEY).exists()]


async def _will_do(service: Service, folder: Path, server_names: tuple[str, ...]) -> bool:
    leaf = x509.load_pem_x509_certificates((folder / CERTIFICATE).read_bytes())[0]
    if set(server_names_of(leaf)) != {str(parse_server_name(name).value) for name in server_names}:
        return False  # They were set anew since it was issued.
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    if leaf.not_valid_after_utc - service.clock() < life / 3:
        return False
    wanted = CertificateFilter(
        fingerprint=fingerprint(leaf.public_bytes(Encoding.DER)), states=frozenset({CertificateState.ACTIVE})
    )
    request = PageRequest(1, "", list_hash("identities"))
    return bool((await service.certificates.list(the_service_itself(), wanted, request)).items)


async def _new_identity(service: Service, base: Path, user_id: str, server_names: tuple[str, ...]) -> Path:
    now: datetime = service.clock()
    folder = base / now.strftime("%Y%m%dT%H%M%S.%fZ")
    folder.mkdir(mode=0o700, parents=True)
    key = generate_key("EC P-256")
    # On disk before the certificate is issued: a crash in between leaves a key that nothing was issued for.
    write_secret(folder / KEY, key_to_pem(key, None))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = IssueRequest(
        user_id,
        csr_der=csr.public_bytes(Encoding.DER),
        server_names=server_names,
        description="made by the installation itself",
    )
    issued = await service.issue.issue(the_service_itself(), request)
    leaf = x509.load_der_x509_certificate(issued.certificate.der)
    chain = certificate_pem(leaf, service.installation.issuing.certificate)
    write_atomically(folder / CERTIFICATE, chain.encode(), 0o644)
    return folder
