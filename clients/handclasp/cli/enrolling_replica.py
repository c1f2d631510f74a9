"""What `handclasp enroll --replica` does: a data folder with a key of its own, certified by the installation's root."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from handclasp.client import files
from handclasp.client.bootstrap import fetch_authority
from handclasp.client.csr import request_for
from handclasp.client.enrolling import enroll_replica
from handclasp.client.retries import may_have_been_done
from handclasp.errors import FailedPrecondition, HandclaspError, Reason, invalid_field


@dataclass(frozen=True, slots=True)
class Replica:
    """A data folder that the certificate service can be started with.

    Attributes:
        database_known: whether the settings here say already where the database is.
    """

    data_dir: Path
    trust_domain: str
    authority: x509.Certificate
    database_known: bool

    @property
    def command(self) -> str:
        """How it is started; what is in capitals is not known here."""
        words = ["handclasp", "serve", "certificates", "--data-dir", str(self.data_dir)]
        words += ["--trust-domain", self.trust_domain, "--host", "ADDRESS", "--server-name", "NAME"]
        database = "" if self.database_known else "HANDCLASP_CERTIFICATES_DATABASE_URL=URL "
        return database + shlex.join(words)


async def enroll_as_replica(token: str, ca_fingerprint: str, address: str, data_dir: Path) -> Replica:
    """Makes the data folder of another replica. The same again goes on with the key of an earlier try.

    Raises:
        HandclaspError: then nothing is left that was made here, unless the key may have been certified.
    """
    from handclasp.certificate_service.data_folder import DataFolderError  # noqa: PLC0415 - with the service's parts
    from handclasp.certificate_service.replica_folder import (  # noqa: PLC0415
        finish_replica_folder,
        look_into_replica_folder,
        prepare_replica_folder,
        restore_replica_folder,
    )
    from handclasp.certificate_service.settings import CertificateServiceSettings  # noqa: PLC0415
    from handclasp.transport.process import settings_fault  # noqa: PLC0415

    try:
        settings = CertificateServiceSettings(data_dir=data_dir)
    except (ValueError, OSError) as error:
        raise invalid_field("settings", settings_fault(error, CertificateServiceSettings, {})) from error
    root_pem = await fetch_authority(address, ca_fingerprint)
    root = x509.load_pem_x509_certificate(root_pem)
    try:
        with files.folder_for_new_files(data_dir):
            before = look_into_replica_folder(data_dir)
            try:
                key = prepare_replica_folder(data_dir, root, settings.passphrase())
                answer = await enroll_replica(address, root_pem, token, request_for(key))
            except (DataFolderError, HandclaspError) as error:
                if isinstance(error, DataFolderError) or not may_have_been_done(error):
                    restore_replica_folder(data_dir, before)
                raise
        authority = x509.load_pem_x509_certificate(answer.authority.encode())
        finish_replica_folder(data_dir, root, key, authority)
    except DataFolderError as error:
        raise FailedPrecondition(Reason.ENROLLMENT_NOT_POSSIBLE, str(error)) from error
    except HandclaspError as error:
        if not may_have_been_done(error):
            raise
        raise type(error)(
            error.reason,
            f"{error.message}. The key in {data_dir} may be a CA's by now; the same command again finishes it, while"
            " the token is good",
            metadata=error.metadata,
            retry_after=error.retry_after,
        ) from error
    return Replica(data_dir, answer.trust_domain, authority, database_known=settings.database_url is not None)
