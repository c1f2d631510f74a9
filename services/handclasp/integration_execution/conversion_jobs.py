"""What travels between the server and its conversion processes, by pipe: pickles, each behind its length.

Both ends are this program, of one installation and one user, so pickles are no door between them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from handclasp.authoring import Integration
from handclasp.errors import FieldViolation

LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process is told at its start.

    Attributes:
        folder: of integrations, beside those that are installed.
        maximum_values: of an input.
        processor_seconds: for one job; the process is ended if it takes more.
        memory_bytes: for its jobs, beside what it has once it is ready.
    """

    folder: Path | None
    maximum_values: int
    processor_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class InputJob:
    """A request, to become a pickled input.

    Attributes:
        models: as `models_digest`, of the integration that the server has.
    """

    name: str
    version: str
    models: bytes
    request: bytes


@dataclass(frozen=True, slots=True)
class OutputJob:
    """A pickled output, to become a response."""

    name: str
    version: str
    models: bytes
    output: bytes
    as_json: bool


class Outcome(Enum):
    """What became of a job, and what the reply has."""

    DONE = "done"
    """`data` is the pickled input, or the serialized response."""
    INVALID = "invalid"
    """The input does not fit: `violations`."""
    MALFORMED = "malformed"
    """The request is no message of its type."""
    NOT_EXACT = "not exact"
    """`text` says which part of the output a structure cannot hold."""
    FAILED = "failed"
    """The integration's models raised something: `text` is the traceback."""
    UNKNOWN = "unknown"
    """The process does not have that integration, not with these models, or cannot pickle them."""
    TOO_MUCH = "too much"
    """It took more time or memory than a job may."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a job."""

    outcome: Outcome
    data: bytes = b""
    text: str = ""
    violations: tuple[FieldViolation, ...] = ()


def models_digest(integration: Integration[Any, Any]) -> bytes:
    """Tells whether two processes have loaded the same: of an integration whose file was changed they have not."""
    schemas = json.dumps([integration.input_schema, integration.output_schema], sort_keys=True)
    return hashlib.sha256(schemas.encode()).digest()
