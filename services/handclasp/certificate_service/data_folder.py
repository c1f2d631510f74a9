"""The data folder, and a SQLite database: for their owner only, and for one process at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import disk_usage

from handclasp.certificate_service.exclusive import HeldByAnotherError, held_alone, is_held_with
from handclasp.serving.files import write_atomically

KEYS = "keys"
DATABASE = "handclasp.db"
CA_FILE = "ca.pem"
CONTEXT_FILE = "context.toml"
IGNORED = ".gitignore"
"""A file in the folder that keeps version control from taking in what else is there."""


# Bytes. SQLite's index of its log, which is deleted when the service stops, has 32 KiB.
_RESERVED = 128 * 1024


class DataFolderError(Exception):
    """The data folder cannot be used; the message says why, and what to do."""


@contextmanager
def data_folder(path: Path, *, inherited: int | None = None) -> Iterator[int]:
    """Makes the folder if need be, and holds it while inside. Yields the descriptor of its lock.

    The lock is the kernel's, so a process that is killed lets go of it.

    Args:
        inherited: the descriptor that this process's parent holds the folder by, for both.
    Raises:
        DataFolderError: another process holds it, others can enter it, or it cannot be made.
    """
    make_data_folder(path)
    if inherited is not None:
        if not is_held_with(inherited, path / "lock"):
            raise DataFolderError(f"{path} is not held by the process that started this one; start that one anew")
        yield inherited
        return
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(held_alone(path / "lock"))
        except HeldByAnotherError:
            raise DataFolderError(
                f"{path} is in use by another process of the certificate service; stop that one first, or choose"
                " another --data-dir"
            ) from None
        except OSError as error:
            raise _unusable(path, error) from error
        yield descriptor


@contextmanager
def sqlite_file(path: Path) -> Iterator[None]:
    """Holds a SQLite database while inside, whichever data folder and symbolic link it is used by: a single process
    serves it. If it is not there, its file is made, for its owner only.

    Raises:
        DataFolderError: another process holds it, or its folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            # SQLite follows symbolic links, too. Hard links it does not take: their journals would be apart.
            real = path.resolve()
            stack.enter_context(held_alone(real.with_name(f"{real.name}.lock")))
            if not real.exists():
                # SQLite gives its other files the rights of this one, and by itself would let everybody read it.
                real.touch(0o600)
            _keep_room(real.with_name(f"{real.name}.reserve"))
        except HeldByAnotherError:
            raise DataFolderError(
                f"the database {path} is served by another process of the certificate service; SQLite is for one. Stop"
                " that one first, or set database_url to PostgreSQL, which several can serve"
            ) from None
        except OSError as error:
            raise DataFolderError(
                f"{path} cannot be used as database: {error.strerror}; check the folder, and the setting database_url"
            ) from error
        yield


def _keep_room(reserve: Path) -> None:
    """Takes up a little of the disk, or gives it back if nothing else is free: SQLite needs it to open a database."""
    free = disk_usage(reserve.parent).free
    if free < _RESERVED:
        reserve.unlink(missing_ok=True)
    # Not what was given back a moment ago: a start opens the database more than once.
    elif free > 10 * _RESERVED and not reserve.exists():
        write_atomically(reserve, bytes(_RESERVED))


def make_data_folder(path: Path) -> None:
    """Makes the folder if need be, with mode 0700, and keeps version control from taking in what is in it.

    Raises:
        DataFolderError: others can enter it, it is somebody else's, or it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise _unusable(path, error) from error
    if found.st_uid != os.geteuid():
        # Its owner could put other keys there. Only a process of root's gets so far.
        raise DataFolderError(
            f"{path} belongs to another user (id {found.st_uid}), who could replace the keys in it; run this as that"
            " user, or choose another --data-dir"
        )
    mode = found.st_mode & 0o777
    if mode & 0o077:
        raise DataFolderError(
            f"{path} has mode {mode:04o} and is to hold private keys; run `chmod 700 {path}`, or choose another"
            " --data-dir"
        )
    ignored = path / IGNORED
    if not ignored.exists():
        try:
            write_atomically(ignored, b"*\n", 0o644)
        except OSError as error:
            raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> DataFolderError:
    advice = {
        errno.ENOSPC: "make room on its disk",
        errno.EROFS: "it has to be on a file system that can be written to; mount that so, or choose another one",
    }.get(error.errno or 0, "make it, as this user's and with mode 0700, or choose another one")
    return DataFolderError(f"{path} cannot be used as data folder: {error.strerror}; {advice}")
