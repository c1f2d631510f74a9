"""This service's own CAs: made at the first start, found again at each later one.

There is one root, whose key is where the installation was made. Each replica signs leaves under an issuing CA of its
own, whose key is in its key folder and nowhere else; replicas that were given a copy of the key folder share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from sqlalchemy.exc import IntegrityError

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.access_profiles import built_in_profiles
from handclasp.certificate_service.storage.access_profiles import add_profile
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.installation import (
    ISSUING,
    PAGE_TOKEN_KEY,
    ROOT,
    TRUST_DOMAIN,
    AuthorityRecord,
    add_authority,
    add_installation,
    read_authorities,
    read_installation,
)
from handclasp.certificate_service.x509.fingerprints import authority_id, fingerprint
from handclasp.certificate_service.x509.issuing import Authority, key_to_pem, make_issuing_authority, make_root
from handclasp.serving.files import SecretFileError, read_secret, write_atomically, write_secret

_LOG = structlog.stdlib.get_logger(__name__)

# In the key folder: there once a database names the keys, or is about to, if a replica joins. Without it they are left
# over from a first start that did not come to its end.
COMPLETE = "complete"


class InstallationError(Exception):
    """The database and the data folder do not go together; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What holds from the first start on.

    Attributes:
        root: the root with its key; None if the key is elsewhere.
        issuing: the CA that this process signs leaves with. Other replicas have others.
    """

    trust_domain: str
    root_certificate: x509.Certificate
    root: Authority | None
    issuing: Authority
    page_token_key: bytes = field(repr=False)

    @property
    def root_fingerprint(self) -> str:
        """By which clients on other machines can know the CA: SHA-256 of the root's DER, in hexadecimal."""
        return fingerprint(self.root_certificate.public_bytes(Encoding.DER))


async def open_installation(
    database: Database, keys: Path, *, trust_domain: str, passphrase: bytes | None, now: datetime
) -> Installation:
    """Reads what the first start made, or makes it.

    Args:
        keys: the folder with the CAs' private keys; made if need be.
        passphrase: encrypts the keys.

    Raises:
        InstallationError: there is no key of an issuing CA, or a key cannot be read, or is not the CA's; or the trust
            domain is another one; or the keys are those of a database that is not this one.
    """
    values = await database.read(read_installation)
    complete = keys / COMPLETE
    if not values:
        if complete.exists():
            raise InstallationError(
                f"{keys} holds the keys of another installation, and the database is empty; check database_url"
                " (HANDCLASP_CERTIFICATES_DATABASE_URL), or restore the database"
            )
        try:
            await _first_start(database, keys, trust_domain=trust_domain, passphrase=passphrase, now=now)
        except IntegrityError:
            # Another process was the first one, at the same moment; what follows says what this one lacks.
            _LOG.warning("installation_made_elsewhere", keys=str(keys))
        values = await database.read(read_installation)
    if values[TRUST_DOMAIN] != trust_domain:
        raise InstallationError(
            f"the database was set up for the trust domain {values[TRUST_DOMAIN]}, and the setting trust_domain says"
            f" {trust_domain}; every certificate names the former, so set it back"
        )
    records = await database.read(read_authorities)
    (root,) = (record for record in records if record.role == ROOT)
    has_root_key = (keys / root.key_file).exists()
    if not has_root_key:
        _LOG.info("root_key_elsewhere", hint="other replicas are enrolled at the one where the installation was made")
    installation = Installation(
        trust_domain,
        root_certificate=x509.load_der_x509_certificate(root.der),
        root=_load(root, keys, passphrase) if has_root_key else None,
        issuing=_load(_own_issuing(records, keys), keys, passphrase),
        page_token_key=values[PAGE_TOKEN_KEY].encode(),
    )
    # Not before the rows are committed: a crash in between is made up for here, at the next start.
    if not complete.exists():
        write_atomically(complete, f"{installation.root_fingerprint}\n".encode(), 0o644)
    return installation


async def _first_start(
    database: Database, keys: Path, *, trust_domain: str, passphrase: bytes | None, now: datetime
) -> None:
    root = make_root(trust_domain=trust_domain, now=now)
    issuing = make_issuing_authority(root, trust_domain=trust_domain, now=now)
    keys.mkdir(mode=0o700, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    # The keys are on disk before the rows that name them: a crash in between leaves files that nobody asks for, and
    # never a CA without its key.
    records = [_store(root, ROOT, keys, passphrase, now), _store(issuing, ISSUING, keys, passphrase, now)]

    async def work(transaction: Transaction) -> None:
        for record in records:
            await add_authority(transaction, record)
        for profile in built_in_profiles(now):
            await add_profile(transaction, profile)
        await add_installation(
            transaction, {TRUST_DOMAIN: trust_domain, PAGE_TOKEN_KEY: Fernet.generate_key().decode()}
        )

    await database.write(work)
    CHANGES.info("installation_made", trust_domain=trust_domain, root=fingerprint(records[0].der))


def key_file_of(role: str, public_key: CertificatePublicKeyTypes) -> str:
    """The name of the file, in the key folder, with the private key of a CA of ours."""
    return f"{role}-{authority_id(public_key)}.pem"


def _store(authority: Authority, role: str, keys: Path, passphrase: bytes | None, now: datetime) -> AuthorityRecord:
    public_key = authority.certificate.public_key()
    name = key_file_of(role, public_key)
    write_secret(keys / name, key_to_pem(authority.key, passphrase))
    der = authority.certificate.public_bytes(Encoding.DER)
    return AuthorityRecord(authority_id(public_key), role, der, name, now)


def _own_issuing(records: Sequence[AuthorityRecord], keys: Path) -> AuthorityRecord:
    """The newest issuing CA whose key is here."""
    issuing = [record for record in records if record.role == ISSUING]
    own = [record for record in issuing if (keys / record.key_file).exists()]
    if own:
        return own[-1]
    names = ", ".join(str(keys / record.key_file) for record in issuing)
    raise InstallationError(
        f"the database names {'an issuing CA' if len(issuing) == 1 else 'issuing CAs'} whose key cannot be had here:"
        f" there is no {names}. Restore the key folder from your backup, or make this another replica with"
        " `handclasp enroll --replica`; without any key, start anew with an empty database and another --data-dir"
    )


def _load(record: AuthorityRecord, keys: Path, passphrase: bytes | None) -> Authority:
    path = keys / record.key_file
    certificate = x509.load_der_x509_certificate(record.der)
    subject = certificate.subject.rfc4514_string()
    try:
        pem = read_secret(path)
    except SecretFileError as error:
        raise InstallationError(
            f"the database names the CA {subject}, and its key cannot be had: {error}. Restore the key folder from your"
            " backup; without it, start anew with an empty database and another --data-dir"
        ) from error
    encrypted = b"ENCRYPTED" in pem
    if encrypted and passphrase is None:
        raise InstallationError(f"{path} is encrypted; set key_passphrase (HANDCLASP_CERTIFICATES_KEY_PASSPHRASE)")
    if passphrase is not None and not encrypted:
        _LOG.warning("ca_key_not_encrypted", file=str(path), hint="it was made before key_passphrase was set")
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except ValueError as error:
        raise InstallationError(
            f"{path} cannot be read: the passphrase is wrong, or the file is damaged; check key_passphrase, or restore"
            " the file from your backup"
        ) from error
    if key.public_key() != certificate.public_key():
        raise InstallationError(f"{path} is not the key of the CA {subject}; restore the file from your backup")
    return Authority(certificate, key)  # type: ignore[arg-type]  # a CA's key was written, so a CA's key is read
