"""Locks that one process has, and that the kernel takes back when it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HeldByAnotherError(Exception):
    """Another process has the lock."""


@contextmanager
def held_alone(path: Path) -> Iterator[int]:
    """Holds a lock file while inside; it is made if need be, and stays.

    Yields its descriptor, which a child process can inherit: then the lock is held until both have ended.

    Raises:
        HeldByAnotherError
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldByAnotherError from None
        yield descriptor
    finally:
        os.close(descriptor)


def is_held_with(descriptor: int, path: Path) -> bool:
    """Whether a descriptor that was inherited is of that lock file, and holds it."""
    try:
        inherited, file = os.fstat(descriptor), path.stat()
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return (inherited.st_dev, inherited.st_ino) == (file.st_dev, file.st_ino)
