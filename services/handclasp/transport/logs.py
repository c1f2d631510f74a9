"""Logging: structlog over the standard library's, set up once, by the process's main."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import Field
from structlog.typing import EventDict, Processor, WrappedLogger

from handclasp.serving.interceptor import current_call
from handclasp.serving.log_streams import CHANGES_LOGGER

REDACTED = "[redacted]"

_SAY_AGAIN_SECONDS = 60.0

_SECRET_KEY = re.compile(
    r"password|passwd|passphrase|secret|private_?key|key_pem|authorization|credential|cookie|api_?key|access_token",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bBasic [A-Za-z0-9+/]{4,}={0,2}"
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"
    r"|\bhce_[A-Za-z0-9_-]{16,}",
    re.DOTALL,
)


class LogFormat(StrEnum):
    KEY_VALUE = "key_value"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the log goes and what it looks like.

    Args:
        format: a line of `key=value` pairs, or a JSON object, for each event.
        level: the lowest level that is logged: `DEBUG`, `INFO`, `WARNING`, `ERROR`.
        file: a file (mode 0600) that is rotated; standard error if unset.
        max_bytes: how large the file may get before it is rotated; 0 for no limit.
        backups: how many rotated files are kept.
        changes_max_bytes: the same for changes, such as what was issued and revoked. They are in `file` like all else,
            and once more in a file of their own beside it, `NAME-changes`, there whatever the level is: so nothing that
            others can cause to be logged pushes them out.
        changes_backups: how many rotated files of changes are kept.
    """

    format: LogFormat = LogFormat.KEY_VALUE
    level: str = "INFO"
    file: Path | None = None
    max_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    backups: Annotated[int, Field(ge=0)] = 5
    changes_max_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    changes_backups: Annotated[int, Field(ge=0)] = 50

    def with_file(self, file: Path | None) -> LogSettings:
        """The same with another file."""
        return replace(self, file=file)


def set_up_logging(settings: LogSettings) -> None:
    """Sends everything that the process logs, by structlog or by `logging`, to one place in one form."""
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _say_for_whom,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
            if settings.format is LogFormat.JSON
            else _render_key_values,
        ],
    )
    root, changes = logging.getLogger(), logging.getLogger(CHANGES_LOGGER)
    everything: logging.Handler
    if settings.file is None:
        everything, only_changes = logging.StreamHandler(sys.stderr), None
    else:
        everything = _PrivateRotatingFileHandler(
            settings.file, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
        )
        # Made with the first change: a service that changes nothing has none.
        only_changes = _PrivateRotatingFileHandler(
            changes_file_of(settings.file),
            maxBytes=settings.changes_max_bytes,
            backupCount=settings.changes_backups,
            encoding="utf-8",
            delay=True,
        )
    for logger, handler in ((root, everything), (changes, only_changes)):
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        if handler is not None:
            handler.setFormatter(formatter)
            logger.addHandler(handler)
    root.setLevel(settings.level)
    everything.setLevel(root.level)
    changes.setLevel(logging.INFO)
    # gRPC's own logger tells of polling, Alembic of what it is about to do.
    for name in ("asyncio", "grpc", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # uvicorn tells of each start and stop, and warns of each request that is none, which anybody can send.
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(max(logging.ERROR, root.level))


def changes_file_of(file: Path) -> Path:
    """Where changes are logged besides, if all is logged to `file`: `certificates-changes.log` beside
    `certificates.log`."""
    return file.with_name(f"{file.stem}-changes{file.suffix}")


def _say_for_whom(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Adds the user of the call that is being handled. Looked up here, and not bound by each call, most of which log
    nothing."""
    call = current_call()
    if call is not None and call.user:
        event.setdefault("user", call.user)
    return event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replaces what looks like a secret, by its key or by its form. The last line of defence, and not the first one:
    code that logs is to leave secrets out."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _redacted(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _SECRET_VALUE.sub(REDACTED, value)
    if isinstance(value, Mapping):
        return {str(name): _redacted(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _SECRET_VALUE.sub(REDACTED, str(value))


_render_pairs = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)


def _render_key_values(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One line for the event; a traceback follows on indented lines, to be read by people."""
    traceback = event.pop("exception", None)
    line = _printable(_render_pairs(logger, method, event))
    if traceback is None:
        return line
    return line + "".join(f"\n    {_printable(text)}" for text in str(traceback).splitlines())


def _printable(line: str) -> str:
    """With what could steer a terminal, or look like another line, written out; names in certificates may hold it."""
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in line
    )


class _PrivateRotatingFileHandler(RotatingFileHandler):
    """A file for its owner only. What cannot be written, since the disk is full, is lost, and harms nothing else."""

    _said_at = float("-inf")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's
        # The base class would say it with two tracebacks, for each line.
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif (now := time.monotonic()) >= self._said_at + _SAY_AGAIN_SECONDS:
            self._said_at = now
            with suppress(OSError):
                print(
                    f"the log {self.baseFilename} cannot be written: {error.strerror}; lines are lost", file=sys.stderr
                )

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: ARG002, N802 - the base class's
        # The base class formats each record once more, to know how long it is; that costs as much as writing it. Here
        # a file ends with the record that fills it.
        return self.maxBytes > 0 and self.stream is not None and self.stream.tell() >= self.maxBytes

    def doRollover(self) -> None:  # noqa: N802 - the base class's
        if not self.backupCount and self.stream is not None:
            # The base class would keep what is there, and write on behind it.
            self.stream.truncate(0)
        super().doRollover()

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding)
