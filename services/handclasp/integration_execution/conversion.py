"""From a request to an integration's input, and from its output to a response: plain functions, for any process."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from handclasp.authoring import Integration, JsonObject
from handclasp.errors import FieldViolation
from handclasp.integration_execution.payload import (
    NotExactError,
    NotJsonError,
    from_json,
    from_struct,
    has_more_values,
    input_invalid,
    struct_has_more_values,
    to_json,
    to_struct,
)
from handclasp.integrations.v1 import integration_service_pb2 as messages

MAX_VIOLATIONS = 100
"""How many fields at fault a refusal names."""

INPUT_FIELDS = ("input", "input_json")


class ModelFailedError(Exception):
    """An integration's models, which are its author's code, failed. The cause says how."""


def input_field(*, as_json: bool) -> str:
    """The field of a request that its input is in."""
    return INPUT_FIELDS[as_json]


def is_json(request: messages.ExecuteIntegrationRequest) -> bool:
    """Whether the input is JSON text."""
    return request.WhichOneof("input_form") == "input_json"


def to_input(
    integration: Integration[Any, Any], request: messages.ExecuteIntegrationRequest, maximum: int, advice: str = ""
) -> BaseModel:
    """The input, validated.

    Args:
        maximum: how many JSON values it may have. They are counted before Python objects are made of them.
        advice: what to do about too many, beside sending fewer.
    Raises:
        InvalidArgument: INPUT_INVALID, with a violation for each field.
        ModelFailedError: a validator raised something else.
    """
    as_json = is_json(request)
    many = has_more_values(request.input_json, maximum) if as_json else struct_has_more_values(request.input, maximum)
    if many:
        raise input_invalid(
            [
                FieldViolation(
                    input_field(as_json=as_json),
                    f"has more than {maximum} values, the most that are taken at once{advice}; send it in parts",
                )
            ]
        )
    return validated(integration, from_json(request.input_json) if as_json else from_struct(request.input))


def validated(integration: Integration[Any, Any], value: dict[str, Any]) -> BaseModel:
    """Raises as `to_input`."""
    try:
        model: BaseModel = integration.input_type.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        violations = [
            FieldViolation(".".join(str(part) for part in fault["loc"]), fault["msg"])
            for fault in faults[:MAX_VIOLATIONS]
        ]
        raise input_invalid(violations) from None
    except RecursionError:
        raise input_invalid([FieldViolation("", "is nested too deeply")]) from None
    except (Exception, SystemExit) as error:
        # A validator's bug; the server is not to end of it.
        raise ModelFailedError from error
    return model


def to_response(
    integration: Integration[Any, Any], output: BaseModel, *, as_json: bool
) -> messages.ExecuteIntegrationResponse:
    """The response that has this output.

    Raises:
        NotExactError: a structure cannot hold it.
        ModelFailedError: it cannot be written as JSON.
    """
    response = messages.ExecuteIntegrationResponse(
        integration=f"integrations/{integration.name}", version=integration.version
    )
    try:
        value = _dumped(output)
        if as_json:
            response.output_json = to_json(value)
        else:
            response.output.CopyFrom(to_struct(value))
    except NotExactError:
        raise
    except (Exception, SystemExit) as error:
        # Serializers are the integration's code too. Lone surrogates, names that are no text, integers of thousands of
        # digits and lists without an end are found by writing.
        raise ModelFailedError from error
    return response


def _dumped(output: BaseModel) -> dict[str, Any]:
    if isinstance(output, JsonObject):
        return output.members
    dumped: object = output.model_dump(mode="json", by_alias=True)
    if not isinstance(dumped, dict):
        raise NotJsonError(f"the output is written as a {type(dumped).__name__}, and not as an object")
    return dumped


def is_larger(value: object, size: int) -> bool:
    """Whether a value would take up more than about so many bytes as JSON. Looks at no more of it than that takes."""
    rest = [value]
    while rest:
        item = rest.pop()
        size -= 4
        if isinstance(item, str | bytes):
            size -= len(item)
        elif isinstance(item, int):
            size -= item.bit_length() // 4
        elif isinstance(item, dict | list | tuple | set | frozenset):
            size -= 4 * len(item)
            if size >= 0:
                rest.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, BaseModel):
            rest += [item.__dict__, item.model_extra]
        elif not isinstance(item, type) and hasattr(item, "__dict__"):
            rest.append(vars(item))
        if size < 0:
            return True
    return False
