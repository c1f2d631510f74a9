"""What `handclasp enroll` does: files and calls in the order in which nothing gets lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.certificates.v1.certificate_service_pb2 import TrustBundle
from handclasp.cli.csr import KeyKind
from handclasp.client import context as contexts
from handclasp.client import files
from handclasp.client.bootstrap import verify_service
from handclasp.client.csr import make_key_and_request, request_for
from handclasp.client.enrolling import enroll
from handclasp.client.private_key import load_private_key
from handclasp.client.retries import may_have_been_done
from handclasp.errors import HandclaspError, InvalidArgument, Reason

CA_FILE = "ca.pem"
CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
CONTEXT_FILE = "context.toml"

# Of a service that does not say.
_USUAL_MUTUAL_PORT = 8444


@dataclass(frozen=True, slots=True)
class Places:
    """Where the services are, each `host:port`: the certificate service's listeners, the execution server.

    Attributes:
        mtls: None if the certificate service is to say its port, on the host of `tls`.
    """

    tls: str
    mtls: str | None
    executions: str | None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What was issued, the folder that it was written to, and the service's mutual TLS listener."""

    certificate: Certificate
    folder: Path
    mtls: str

    @property
    def ca_file(self) -> Path:
        return self.folder / CA_FILE

    @property
    def certificate_file(self) -> Path:
        return self.folder / CERTIFICATE_FILE

    @property
    def key_file(self) -> Path:
        return self.folder / KEY_FILE

    @property
    def context_file(self) -> Path:
        return self.folder / CONTEXT_FILE

    @property
    def for_server(self) -> bool:
        """Whether it is a server's, too."""
        leaf = x509.load_pem_x509_certificates(self.certificate.pem.encode())[0]
        usages = [item.value for item in leaf.extensions if isinstance(item.value, x509.ExtendedKeyUsage)]
        return any(ExtendedKeyUsageOID.SERVER_AUTH in usage for usage in usages)

    def written(self) -> dict[str, Path]:
        """The files, by what they are."""
        return {
            "ca_file": self.ca_file,
            "certificate_file": self.certificate_file,
            "key_file": self.key_file,
            "context_file": self.context_file,
        }


async def enroll_user(token: str, ca_fingerprint: str, places: Places, folder: Path, key_kind: KeyKind) -> Enrolled:
    """Gets the certificate that a token is good for, and writes it into a folder with all that belongs to it.

    A key that is in the folder already is used: it is that of an earlier try whose answer was lost. So the folder and
    the key must be the caller's own.

    Raises:
        HandclaspError: then nothing is left that was made here, unless a certificate may have been issued.
    """
    enrolled = folder / CERTIFICATE_FILE, folder / CONTEXT_FILE
    files.refuse_existing(enrolled)
    files.refuse_prepared(folder, (CA_FILE, KEY_FILE))
    service = await verify_service(places.tls, ca_fingerprint)
    authority = service.authority
    with (
        files.folder_for_new_files(folder),
        _authority_in(folder / CA_FILE, authority),
        key_and_request(folder / KEY_FILE, key_kind) as csr_pem,
    ):
        certificate = await enroll(places.tls, authority, token, csr_pem)
    done = Enrolled(certificate, folder, places.mtls or mutual_address(places.tls, service.bundle))
    context = contexts.Context(
        certificates_tls=places.tls,
        certificates_mtls=done.mtls,
        executions=places.executions,
        ca_file=done.ca_file,
        certificate=done.certificate_file,
        key=done.key_file,
    )
    try:
        _write_both(done, context)
    except HandclaspError as error:
        raise type(error)(
            error.reason,
            f"{error.message}. The certificate is issued, for the key in {done.key_file}; the same command again gets"
            " it, while the token is good",
        ) from error
    return done


def _write_both(done: Enrolled, context: contexts.Context) -> None:
    """Writes certificate and context file, or neither: the next try refuses a folder that has one of them."""
    with files.NewFile(done.certificate_file, files.PUBLIC_MODE) as file:
        file.fill(done.certificate.pem.encode())
        try:
            contexts.write(done.context_file, context)
        except HandclaspError:
            file.discard()
            raise


def mutual_address(tls: str, bundle: TrustBundle) -> str:
    """The mutual TLS listener of the service whose one-way TLS listener is at `tls`, as far as the service knows."""
    return f"{tls.rpartition(':')[0]}:{bundle.mutual_tls_port or _USUAL_MUTUAL_PORT}"


@contextlib.contextmanager
def key_and_request(path: Path, key_kind: KeyKind) -> Iterator[bytes]:
    """A request for the key in that file, which is made if it is not there, and then is on disk inside.

    A key that was made here goes away again if what is inside was refused for certain.

    Raises:
        HandclaspError: and what is inside raises, with what to do about the key.
    """
    if path.exists():
        with _kept(path):
            yield _request_for_key_in(path)
        return
    made = make_key_and_request(curve=key_kind.value)
    with _file_unless_refused(path, made.key_pem, files.SECRET_MODE), _kept(path):
        yield made.csr_pem


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[None]:
    try:
        yield
    except HandclaspError as error:
        if not may_have_been_done(error):
            raise
        raise type(error)(
            error.reason,
            f"{error.message}. A certificate may have been issued, for the key in {path}; the same command again gets"
            " it, while the token is good",
            metadata=error.metadata,
            retry_after=error.retry_after,
        ) from error


def _request_for_key_in(path: Path) -> bytes:
    key = load_private_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument(
            Reason.FILE_NOT_USABLE, f"{path} is there already, and is no key of an elliptic curve; move it away"
        )
    return request_for(key)


@contextlib.contextmanager
def _authority_in(path: Path, authority: bytes) -> Iterator[None]:
    """The CA certificate is in that file inside."""
    if path.exists() and files.read_bytes(path, "the CA file") == authority:
        # Of an earlier try, or fetched before.
        yield
        return
    with _file_unless_refused(path, authority, files.PUBLIC_MODE):
        yield


@contextlib.contextmanager
def _file_unless_refused(path: Path, content: bytes, mode: int) -> Iterator[None]:
    """A new file, on disk inside, which goes away again if what is inside was refused for certain."""
    with files.NewFile(path, mode) as file:
        file.fill(content)
        try:
            yield
        except HandclaspError as error:
            if not may_have_been_done(error):
                file.discard()
            raise
