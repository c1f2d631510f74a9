"""The context file: where the services are, and who one is.

certificates_tls = "127.0.0.1:8442"     # certificate service, one-way TLS
certificates_mtls = "127.0.0.1:8444"    # certificate service, mTLS
executions = "127.0.0.1:8443"           # execution server, mTLS
ca_file = "ca.pem"                      # relative paths start at the context file
certificate = "admin/cert.pem"          # with `key`; or `username` with `password_file`; or both
key = "admin/key.pem"

Where a service runs more than once, its addresses stand side by side: "a.example:8444,b.example:8444".
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handclasp.client import files
from handclasp.client.addresses import check_addresses
from handclasp.errors import FailedPrecondition, InvalidArgument, Reason

ENVIRONMENT_VARIABLE = "HANDCLASP_CONTEXT"
_ADDRESSES = ("certificates_tls", "certificates_mtls", "executions")
_FILES = ("ca_file", "certificate", "key", "password_file")
FIELDS = (*_ADDRESSES, *_FILES, "username")
_PAIRS = (("certificate", "key"), ("username", "password_file"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where the services are, and who one is. Holds the names of secret files, never what is in them.

    Attributes:
        certificates_tls: `host:port` of the certificate service's one-way TLS listener; several with commas in between.
        certificates_mtls: the same of its mTLS listener.
        executions: the same of the execution server.
        ca_file: the CA certificates, as PEM, that the servers are checked against.
        certificate: the client certificate as PEM, the leaf first; with `key`.
        key: its private key as PEM; readable by its owner only.
        username: who logs in by password; with `password_file`.
        password_file: the password in its first line; readable by its owner only.
    """

    certificates_tls: str | None = None
    certificates_mtls: str | None = None
    executions: str | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None


def find(explicit: Path | None) -> Path:
    """Which context file counts: the one named, else `HANDCLASP_CONTEXT`, else the one in the user's configuration."""
    if explicit is not None:
        return explicit
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(from_environment)
    return default_path()


def default_path() -> Path:
    """The context file in the user's configuration folder."""
    import platformdirs  # noqa: PLC0415 - most runs name their context

    return Path(platformdirs.user_config_dir("handclasp")) / "context.toml"


def load(path: Path) -> Context:
    """Reads a context file.

    Raises:
        FailedPrecondition: there is none (CONTEXT_NOT_FOUND).
        InvalidArgument: it cannot be read, or does not fit (CONTEXT_INVALID); or others can write it
            (FILE_OPEN_TO_OTHERS).
    """
    try:
        text = files.read_trusted(path, "the context file").decode()
    except FileNotFoundError as error:
        raise FailedPrecondition(
            Reason.CONTEXT_NOT_FOUND,
            f"there is no context file {path}; name one with --context or {ENVIRONMENT_VARIABLE}, or make one with "
            "`handclasp context new`",
        ) from error
    except UnicodeDecodeError as error:
        raise _invalid(path, "it is not UTF-8 text") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, f"it is not TOML: {error}") from error
    return _parse(path, values)


def render(context: Context) -> str:
    """The context as the text of a context file. Paths are written absolute, so that the file can be moved."""
    import json  # noqa: PLC0415 - a JSON string is a TOML basic string

    lines = []
    for field in FIELDS:
        value: str | Path | None = getattr(context, field)
        if value is not None:
            text = str(value.absolute()) if isinstance(value, Path) else value
            # The one character that TOML wants escaped and JSON does not.
            quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{field} = {quoted}\n")
    return "".join(lines)


def write(path: Path, context: Context, *, force: bool = False) -> None:
    """Writes a context file in one step, readable by its owner only.

    Raises:
        AlreadyExists: there is one, and not `force` (FILE_EXISTS).
        InvalidArgument: the context does not fit, or the file cannot be written.
    """
    text = render(context)
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise _invalid(path, "it would name a file whose name is not UTF-8; rename that one") from None
    _parse(path, tomllib.loads(text))
    files.make_folder(path.parent)
    if force:
        files.replace(path, content, files.SECRET_MODE)
    else:
        files.write_new(path, content, files.SECRET_MODE)


def _parse(path: Path, values: Mapping[str, object]) -> Context:
    found: dict[str, str] = {}
    for field, value in values.items():
        if field not in FIELDS:
            raise _invalid(path, f"`{field}` is not a field of it; there are {', '.join(FIELDS)}")
        if not isinstance(value, str) or not value:
            raise _invalid(path, f"`{field}` has to be a text that is not empty")
        found[field] = value
    for field in _ADDRESSES:
        if field in found and (fault := check_addresses(found[field])):
            raise _invalid(path, f"`{field}` {fault}")
    for one, other in _PAIRS:
        if (one in found) != (other in found):
            raise _invalid(path, f"`{one}` and `{other}` go together; give both or neither")
    paths = {field: path.parent / Path(found[field]).expanduser() for field in _FILES if field in found}
    return Context(
        certificates_tls=found.get("certificates_tls"),
        certificates_mtls=found.get("certificates_mtls"),
        executions=found.get("executions"),
        username=found.get("username"),
        ca_file=paths.get("ca_file"),
        certificate=paths.get("certificate"),
        key=paths.get("key"),
        password_file=paths.get("password_file"),
    )


def _invalid(path: Path, fault: str) -> InvalidArgument:
    return InvalidArgument(Reason.CONTEXT_INVALID, f"the context file {path} does not fit: {fault}")
