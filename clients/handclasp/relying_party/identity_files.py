"""A relying party's own certificate and key on disk, which are replaced together although they are two files."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.serving.files import SecretFileError, read_secret, sync_folder, write_atomically
from handclasp.serving.tls import TlsIdentity, TlsMaterialError

_NEXT = ".next"
_PUBLIC_MODE = 0o644
_READ_WAIT = 15.0  # seconds that a reading waits for another process that replaces the files
_READ_RETRY = 0.05

_LOG = structlog.stdlib.get_logger(__name__)


class FilesHeldError(Exception):
    """Another process replaces the files just now."""


class IdentityFiles:
    """The two files, which several processes may use at the same time.

    They are replaced so: the new ones are written beside them, ending in `.next`, the key first; then the key is
    renamed, then the certificate. Whatever a crash leaves is completed or discarded at the next start. If both are in
    one file, that one is replaced at once.

    Args:
        certificate: PEM of the leaf, and then its intermediates.
        key: PEM of its private key, not encrypted; mode 0600.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._next_certificate = certificate.with_name(certificate.name + _NEXT)
        self._next_key = key.with_name(key.name + _NEXT)

    def read(self) -> TlsIdentity:
        """The identity, checked; what a crash left of its replacement is completed or discarded before.

        Waits for another process that replaces the files just now.

        Raises:
            SecretFileError: the key is missing, not to be read, or open to others.
            OSError: the certificate cannot be read.
            TlsMaterialError: the two cannot work, as a server's or as a client's.
        """
        deadline = time.monotonic() + _READ_WAIT
        while True:
            try:
                with self.held():
                    return self.read_held()
            except FilesHeldError:
                if time.monotonic() >= deadline:
                    # Whoever holds them for so long does not write. What is unfinished is left to that process.
                    return self._read()
                time.sleep(_READ_RETRY)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from replacing the files while inside; the kernel lets go if this one ends.

        Where the folder cannot be locked, nothing is kept from anybody.

        Raises:
            FilesHeldError: another process holds them.
        """
        try:
            descriptor = os.open(self._certificate.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FilesHeldError from None
            except OSError as error:
                _LOG.warning("identity_not_locked", fault=str(error))
            yield
        finally:
            os.close(descriptor)

    def read_held(self) -> TlsIdentity:
        """As `read`, for whoever holds the files."""
        try:
            self._recover()
        except OSError as error:
            _LOG.warning("identity_not_recovered", fault=str(error), hint="remove the files that end in .next")
        return self._read()

    def replace(self, identity: TlsIdentity) -> None:
        """Has another identity on disk when it returns. If it raises, the old one is, and nothing else. For whoever
        holds the files.

        Raises:
            OSError: the files cannot be written.
        """
        if _place(self._certificate) == _place(self._key):
            write_atomically(self._key, identity.key_pem + identity.chain_pem, 0o600)
            return
        try:
            write_atomically(self._next_key, identity.key_pem, 0o600)
            write_atomically(self._next_certificate, identity.chain_pem, self._mode())
            self._complete()
        except OSError:
            # Once the key is in its place, the certificate that is beside it is wanted at the next start.
            if self._next_key.exists():
                self._discard()
            raise

    def _read(self) -> TlsIdentity:
        identity = TlsIdentity(read_secret(self._key), self._certificate.read_bytes())
        try:
            _require_usages(identity.check())
        except TlsMaterialError as error:
            raise TlsMaterialError(f"{self._certificate} and {self._key}: {error}") from error
        return identity

    def _recover(self) -> None:
        for path in (self._next_key, self._next_certificate):
            for unfinished in path.parent.glob(f".{path.name}.*"):
                unfinished.unlink()
        if not self._next_certificate.exists():
            # Without its certificate a key is good for nothing.
            self._next_key.unlink(missing_ok=True)
        elif _are_a_pair(self._next_key if self._next_key.exists() else self._key, self._next_certificate):
            self._complete()
            _LOG.info("identity_completed", hint="the last process ended while it replaced its certificate")
        else:
            self._discard()

    def _complete(self) -> None:
        if self._next_key.exists():
            self._next_key.replace(self._key)
            sync_folder(self._key.parent)
        self._next_certificate.replace(self._certificate)
        sync_folder(self._certificate.parent)

    def _discard(self) -> None:
        # The certificate first: a key alone is discarded at the next start, too.
        self._next_certificate.unlink(missing_ok=True)
        self._next_key.unlink(missing_ok=True)

    def _mode(self) -> int:
        try:
            return self._certificate.stat().st_mode & 0o777
        except OSError:
            return _PUBLIC_MODE


def _place(path: Path) -> Path:
    """Where a file of that name is put; a symbolic link of that name would be replaced."""
    return path.parent.resolve() / path.name


def _are_a_pair(key: Path, certificate: Path) -> bool:
    try:
        TlsIdentity(read_secret(key), certificate.read_bytes()).check()
    except (SecretFileError, OSError, TlsMaterialError):
        return False
    return True


def _require_usages(leaf: x509.Certificate) -> None:
    """Without them the handshakes would fail, with a message that says little, and at the other end."""
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise TlsMaterialError("the certificate has extensions that cannot be read; issue another one") from error
    for usage, name, advice in (
        (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth", "issue it with --server-name"),
        (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth", "issue one that has both, with --server-name"),
    ):
        if usage not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
            raise TlsMaterialError(f"the certificate has no {name}; {advice}")
