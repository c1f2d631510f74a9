"""What an integration's models can do to the server."""

from __future__ import annotations

import sys

import pytest
from pydantic import BaseModel, model_serializer, model_validator

from handclasp.authoring import integration
from handclasp.integration_execution.conversion import ModelFailedError, to_response, validated


class Plain(BaseModel):
    pass


class ExitsWhenRead(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def leave(cls, _value: object) -> object:
        sys.exit("found nothing")


class ExitsWhenWritten(BaseModel):
    @model_serializer
    def leave(self) -> dict[str, object]:
        sys.exit("found nothing")


@integration(name="t.reads", version="1.0.0")
async def reads(_value: ExitsWhenRead) -> Plain:
    return Plain()


@integration(name="t.writes", version="1.0.0")
async def writes(_value: Plain) -> ExitsWhenWritten:
    return ExitsWhenWritten()


def test_a_model_that_is_read_cannot_end_the_server() -> None:
    with pytest.raises(ModelFailedError):
        validated(reads, {})


def test_a_model_that_is_written_cannot_end_the_server() -> None:
    with pytest.raises(ModelFailedError):
        to_response(writes, ExitsWhenWritten(), as_json=True)
