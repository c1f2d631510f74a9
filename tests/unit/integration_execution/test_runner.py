"""What an integration's code can do to the server."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer, model_validator

from handclasp.authoring import Integration, integration
from handclasp.errors import Aborted, Reason
from handclasp.integration_execution.runner import IntegrationRunner


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


@pytest.mark.parametrize("exits", [reads, writes])
async def test_a_model_cannot_end_the_server(exits: Integration[Any, Any]) -> None:
    with pytest.raises(Aborted) as caught:
        await IntegrationRunner().run(exits, {})
    assert caught.value.reason == Reason.INTEGRATION_FAILED
