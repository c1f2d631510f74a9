"""Files on the client's side: secrets that only their owner can read, and files that are never overwritten."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from handclasp.errors import AlreadyExists, InvalidArgument, Reason
from handclasp.serving.files import sync_folder

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
_OPEN_TO_OTHERS = 0o077
_WRITABLE_BY_OTHERS = 0o022
_ROOT = 0


def read_bytes(path: Path, what: str) -> bytes:
    """Reads a file that somebody named.

    Args:
        path: the file.
        what: what it was named as, for the error: `the CA file`.

    Raises:
        InvalidArgument: it cannot be read (FILE_NOT_USABLE).
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unusable(path, what, error) from error


def read_secret(path: Path, what: str) -> bytes:
    """Reads a private key or a password. The mode is taken from the open file, so that it cannot be swapped in between.

    Raises:
        InvalidArgument: it cannot be read (FILE_NOT_USABLE), or others can read it too (FILE_OPEN_TO_OTHERS).
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & _OPEN_TO_OTHERS:
                raise InvalidArgument(
                    Reason.FILE_OPEN_TO_OTHERS,
                    f"{what} {path} is open to others (mode {mode:04o}); run `chmod 600 {path}`, and replace the "
                    "secret if somebody else may have read it",
                )
            return file.read()
    except OSError as error:
        raise unusable(path, what, error) from error


def read_trusted(path: Path, what: str) -> bytes:
    """Reads a file that says whom to believe, such as a context file. Whoever can write it could have it say something
    else. A file of another user's is taken from a folder of that user's only: there it was not slipped in.

    Raises:
        FileNotFoundError: there is none.
        InvalidArgument: others can write it (FILE_OPEN_TO_OTHERS), or it cannot be read (FILE_NOT_USABLE).
    """
    try:
        with path.open("rb") as file:
            found, folder = os.fstat(file.fileno()), path.parent.stat()
            fault = None
            if found.st_mode & _WRITABLE_BY_OTHERS:
                fault = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); run `chmod go-w {path}`"
            elif found.st_uid not in (os.geteuid(), _ROOT, folder.st_uid):
                fault = f"belongs to another user (id {found.st_uid}), who could change it; make one of your own"
            elif _anybody_can_replace_in(folder):
                fault = f"is in a folder in which anybody could replace it; run `chmod o-w {path.parent}`"
            if fault is not None:
                raise InvalidArgument(
                    Reason.FILE_OPEN_TO_OTHERS, f"{what} {path} {fault}, after a look at what it says"
                )
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unusable(path, what, error) from error


def refuse_prepared(folder: Path, names: Sequence[str]) -> None:
    """Looks at a folder that is to hold a key: whether others could have put one there, or could replace it.

    Args:
        names: of files that would be used if they are there.

    Raises:
        InvalidArgument: anybody can write in it, or it or such a file is another user's (FILE_OPEN_TO_OTHERS).
    """
    for path in (folder, *(folder / name for name in names)):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unusable(path, "the folder" if path == folder else "the file", error) from error
        if found.st_uid != os.geteuid():
            raise InvalidArgument(
                Reason.FILE_OPEN_TO_OTHERS,
                f"{path} belongs to another user (id {found.st_uid}), who could know or replace the key; run this as"
                " that user, or choose another folder",
            )
        if path == folder and _anybody_can_replace_in(found):
            raise InvalidArgument(
                Reason.FILE_OPEN_TO_OTHERS,
                f"anybody can write in {folder} (mode {stat.S_IMODE(found.st_mode):04o}), which is to hold a private"
                f" key; run `chmod 700 {folder}` after a look at what is in it, or choose another folder",
            )


def _anybody_can_replace_in(folder: os.stat_result) -> bool:
    return bool(folder.st_mode & stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX


def read_password(path: Path) -> str:
    """The password in a file: its first line, without the line's end.

    Raises:
        InvalidArgument: it cannot be read, is open to others, is not UTF-8, or is empty.
    """
    return password_text(read_secret(path, "the password file"), f"the password file {path}")


def password_text(content: bytes, what: str) -> str:
    """The first line of `content`, without the line's end.

    Raises:
        InvalidArgument: not UTF-8, or empty (FILE_NOT_USABLE).
    """
    try:
        password = content.decode().partition("\n")[0].removesuffix("\r")
    except UnicodeDecodeError:
        # Without the cause, which quotes the bytes.
        raise InvalidArgument(Reason.FILE_NOT_USABLE, f"{what} is not UTF-8 text; write it again") from None
    if not password:
        raise InvalidArgument(Reason.FILE_NOT_USABLE, f"{what} has an empty first line; put it there")
    return password


def unusable(path: Path, what: str, error: OSError) -> InvalidArgument:
    """What is said of a file that the operating system does not let us use."""
    return InvalidArgument(
        Reason.FILE_NOT_USABLE,
        f"{what} {path} cannot be used: {error.strerror or error}; check the path and its rights",
    )


def refuse_existing(paths: Sequence[Path]) -> None:
    """Looks before anything is done elsewhere; writing looks again, atomically.

    Raises:
        AlreadyExists: one of them is there (FILE_EXISTS).
    """
    for path in paths:
        if os.path.lexists(path):
            raise _exists(path)


class NewFile:
    """A file that this process created, empty, and fills later. Used with `with`: unless filled, it goes away again.

    Creating it first shows that it can be written before anything is asked of a server.

    Raises:
        AlreadyExists: something is there already (FILE_EXISTS).
        InvalidArgument: it cannot be created (FILE_NOT_USABLE).
    """

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self._filled = False
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise _exists(path) from error
        except OSError as error:
            raise unusable(path, "the new file", error) from error

    def fill(self, content: bytes) -> None:
        """Writes the content and has it on disk when it returns. Once only.

        Raises:
            InvalidArgument: it cannot be written, the disk being full for example (FILE_NOT_USABLE).
        """
        try:
            with os.fdopen(os.dup(self._descriptor), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.path.parent)
        except OSError as error:
            raise unusable(self.path, "the new file", error) from error
        self._filled = True

    def discard(self) -> None:
        """Removes the file at the end even though it was filled."""
        self._filled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if not self._filled:
            self.path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """The folder for new files, with its parents; 0700 if it is made here, since keys go there.

    Raises:
        InvalidArgument: it cannot be made (FILE_NOT_USABLE).
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, "the folder", error) from error


@contextlib.contextmanager
def folder_for_new_files(path: Path) -> Iterator[None]:
    """As `make_folder`; what was made and is still empty goes away again if the block raises.

    Raises:
        InvalidArgument: it cannot be made (FILE_NOT_USABLE).
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        yield
    except BaseException:
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Writes a file that is not there yet.

    Raises:
        AlreadyExists: something is there already (FILE_EXISTS).
        InvalidArgument: it cannot be written (FILE_NOT_USABLE); then nothing is left of it.
    """
    with NewFile(path, mode) as file:
        file.fill(content)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Writes a file in one step: whoever reads it sees the old content or the new one.

    Raises:
        InvalidArgument: it cannot be written (FILE_NOT_USABLE); then the old content stays.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise unusable(path, "the file", error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise unusable(path, "the file", error) from error


def _exists(path: Path) -> AlreadyExists:
    return AlreadyExists(
        Reason.FILE_EXISTS, f"{path} is there already and is not overwritten; move it away or choose another place"
    )
