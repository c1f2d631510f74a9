"""`handclasp integration`: what can be run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from handclasp.cli.commands import command, group
from handclasp.cli.output import print_details, print_json, print_line, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.text import shown_json
from handclasp.client.names import INTEGRATIONS, resource_id, resource_name
from handclasp.client.paging import items
from handclasp.integrations.v1.integration_pb2 import Integration
from handclasp.integrations.v1.integration_service_pb2 import GetIntegrationRequest, ListIntegrationsRequest

app = group("Integrations that you may run.")


@command(app, "list")
async def list_integrations(
    session: Session, limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")] = None
) -> None:
    """List the integrations that you may run."""
    async with session.client() as client:
        request = ListIntegrationsRequest()
        found = items(client.integrations.ListIntegrations, request, lambda page: list(page.integrations), limit)
        integrations = [integration async for integration in found]
    if session.as_json:
        print_json({"integrations": [_to_json(integration) for integration in integrations]})
        return
    rows = [
        (
            resource_id(integration.name),
            integration.version,
            "yes" if integration.enabled else "no",
            integration.description,
        )
        for integration in integrations
    ]
    print_table(("INTEGRATION", "VERSION", "ENABLED", "DESCRIPTION"), rows, "no integrations that you may run")


@command(app, "show")
async def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as orders.summarize.", show_default=False)],
    version: Annotated[str, typer.Option("--version", help="Which version; the newest if not given.")] = "",
) -> None:
    """Show an integration with the JSON Schema of its input and output."""
    async with session.client() as client:
        request = GetIntegrationRequest(name=resource_name(INTEGRATIONS, name), version=version)
        integration = await client.integrations.GetIntegration(request)
    if session.as_json:
        print_json(_to_json(integration))
    else:
        _print(integration)


def _print(integration: Integration) -> None:
    print_details(
        integration.name,
        (
            ("version", integration.version),
            ("enabled", "yes" if integration.enabled else "no"),
            ("timeout", f"{integration.timeout.ToTimedelta().total_seconds():g} s"),
            ("description", integration.description),
        ),
    )
    for what, schema in (("Input", integration.input_schema), ("Output", integration.output_schema)):
        print_line(f"\n{what}, as JSON Schema:\n{shown_json(json.dumps(_plain(schema), indent=2, ensure_ascii=False))}")


def _to_json(integration: Integration) -> dict[str, Any]:
    fields = to_json(integration)
    schemas = {name: _plain(getattr(integration, name)) for name in ("input_schema", "output_schema") if name in fields}
    return fields | schemas


def _plain(schema: Struct) -> Any:
    return _ordered(MessageToDict(schema))


def _ordered(value: Any) -> Any:
    """A `Struct` has no order of its own, and holds 1 as 1.0; this is in one order, and has whole numbers whole."""
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
