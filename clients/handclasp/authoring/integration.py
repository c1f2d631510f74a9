"""The decorator that makes an async function an integration."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, RootModel
from pydantic.errors import PydanticUserError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
VERSION_PATTERN = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")
DEFAULT_TIMEOUT = timedelta(seconds=30)

InputT = TypeVar("InputT", bound=BaseModel)
OutputT = TypeVar("OutputT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Integration(Generic[InputT, OutputT]):
    """A named, versioned async function with a typed input and output. Calling it calls the function.

    Args:
        name: as in `integrations/{name}`.
        version: `MAJOR.MINOR.PATCH`. A version never changes: new code is a new version.
        description: for people.
        timeout: how long one run may take.
        enabled: whether it can be run at all.
        function: what runs. It is cancelled when the timeout or the caller's deadline passes, or the caller leaves.
        input_type: the model that the input is validated with.
        output_type: the model that the function returns.
        input_schema: JSON Schema (2020-12) of the input.
        output_schema: JSON Schema (2020-12) of the output.
    """

    name: str
    version: str
    description: str
    timeout: timedelta
    enabled: bool
    function: Callable[[InputT], Awaitable[OutputT]]
    input_type: type[InputT]
    output_type: type[OutputT]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]

    def __call__(self, value: InputT) -> Awaitable[OutputT]:
        return self.function(value)

    @property
    def version_key(self) -> tuple[int, int, int]:
        """The version as numbers, for comparing."""
        major, minor, patch = self.version.split(".")
        return int(major), int(minor), int(patch)


def integration(
    *,
    name: str,
    version: str,
    description: str = "",
    timeout: timedelta | float = DEFAULT_TIMEOUT,
    enabled: bool = True,
) -> Callable[[Callable[[InputT], Awaitable[OutputT]]], Integration[InputT, OutputT]]:
    """Makes `async def f(value: InputModel) -> OutputModel` an integration.

    Input comes as JSON and is validated in pydantic's lax mode, so that dates, UUIDs and decimals may be strings;
    output is written as pydantic writes JSON. Decimals are exact: as JSON strings always, as JSON numbers if the caller
    sends JSON text. What the function raises is logged on the server; the caller is told only that it failed.

    Args:
        name: matches `[a-z0-9][a-z0-9._-]{0,62}`. Dots group, as grants can end in `*`: `integrations/orders.*`.
        version: `MAJOR.MINOR.PATCH`.
        description: for people; the first paragraph of the docstring if empty.
        timeout: how long one run may take; a number counts as seconds.
        enabled: whether it can be run at all.
    Raises:
        TypeError: what is decorated is not an async function from one pydantic model to another.
        ValueError: name, version or timeout do not fit.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"integration name {name!r} does not fit: use 1 to 63 of a-z, 0-9, `.`, `_`, `-`, and begin with one of "
            "a-z, 0-9"
        )
    if not VERSION_PATTERN.fullmatch(version):
        raise ValueError(f"{name}: version {version!r} does not fit: use MAJOR.MINOR.PATCH, such as 1.0.0")
    limit = _as_timedelta(name, timeout)

    def decorate(function: Callable[[InputT], Awaitable[OutputT]]) -> Integration[InputT, OutputT]:
        input_type, output_type = _models_of(name, function)
        return Integration(
            name=name,
            version=version,
            description=description or _first_paragraph(function),
            timeout=limit,
            enabled=enabled,
            function=function,
            input_type=input_type,
            output_type=output_type,
            input_schema=_schema(name, input_type, "validation"),
            output_schema=_schema(name, output_type, "serialization"),
        )

    return decorate


def _as_timedelta(name: str, timeout: timedelta | float) -> timedelta:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    if not (math.isfinite(seconds) and 0 < seconds <= timedelta(days=1).total_seconds()):
        raise ValueError(f"{name}: timeout {timeout!r} does not fit: use more than 0 seconds and at most a day")
    return timedelta(seconds=seconds)


def _models_of(name: str, function: Callable[..., Any]) -> tuple[type[Any], type[Any]]:
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"{name}: an integration returns one output; write `return`, and not `yield`")
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{name}: an integration is an async function; write `async def`")
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in positional:
        raise TypeError(f"{name}: an integration takes exactly one positional parameter, its input")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise TypeError(
            f"{name}: an annotation names {error.name!r}, which the function's module does not have"
        ) from None
    return (
        _require_model(name, f"parameter {parameters[0].name!r}", hints.get(parameters[0].name)),
        _require_model(name, "the return value", hints.get("return")),
    )


def _require_model(name: str, what: str, hint: Any) -> type[BaseModel]:
    if not (inspect.isclass(hint) and issubclass(hint, BaseModel)) or hint is BaseModel:
        raise TypeError(f"{name}: annotate {what} with a pydantic model, a subclass of BaseModel")
    if issubclass(hint, RootModel):
        raise TypeError(f"{name}: {what} must be a JSON object; give the RootModel's value a field in a model")
    return hint


def _schema(name: str, model: type[BaseModel], mode: typing.Literal["validation", "serialization"]) -> dict[str, Any]:
    try:
        return model.model_json_schema(mode=mode)
    except PydanticUserError as error:
        raise TypeError(f"{name}: {model.__name__} has no JSON Schema: {error.message}") from error


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
