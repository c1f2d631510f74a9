"""`handclasp integration`: what can be run."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from handclasp.cli.commands import command, group
from handclasp.cli.output import print_details, print_json, print_table, to_json
from handclasp.cli.session import Session
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
        print_json({"integrations": [to_json(integration) for integration in integrations]})
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
        print_json(to_json(integration))
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
            ("input", json.dumps(MessageToDict(integration.input_schema), indent=2, ensure_ascii=False)),
            ("output", json.dumps(MessageToDict(integration.output_schema), indent=2, ensure_ascii=False)),
        ),
    )
