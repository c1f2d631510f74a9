"""Files that hold secrets, and files that must never be seen half-written."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


class SecretFileError(Exception):
    """A file with a secret that is missing, unreadable, or open to others. The message says what to do."""


def write_secret(path: Path, data: bytes) -> None:
    """Writes a new file that only its owner can read (mode 0600), and has it on disk on return.

    Raises:
        FileExistsError: there is one already. Secrets are never overwritten.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write_through(file.fileno(), data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file, or replaces it: readers see the old content or the new, also after a power cut.

    One that has this content and mode already is left alone: a start then needs no room on the disk.
    """
    if _is_so(path, data, mode):
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            _write_through(file.fileno(), data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _is_so(path: Path, data: bytes, mode: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        same = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode and found.st_uid == os.geteuid()
        return same and found.st_size == len(data) and file.read() == data


def read_secret(path: Path) -> bytes:
    """Reads a file that holds a secret, provided that its group and others cannot.

    Raises:
        SecretFileError: it is missing, not to be read, or open to others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SecretFileError(f"{path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`")
            return file.read()
    except FileNotFoundError:
        raise SecretFileError(f"{path} does not exist; check the setting that names it") from None
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror}; check who owns it") from error


def _write_through(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Has names that were added, removed or changed in a folder on disk on return."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
