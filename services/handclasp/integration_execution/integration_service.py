"""`handclasp.integrations.v1.IntegrationService`: decode, authorize, look up, act, encode; in that order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from handclasp.authoring import NAME_PATTERN, Integration
from handclasp.authorization.v1 import permission_pb2
from handclasp.errors import FailedPrecondition, NotFound, PermissionDenied, Reason, invalid_field
from handclasp.integration_execution.page_tokens import PageTokens
from handclasp.integration_execution.payload import (
    NotExactError,
    NotJsonError,
    from_json,
    from_struct,
    to_json,
    to_struct,
)
from handclasp.integration_execution.registry import Registry
from handclasp.integration_execution.runner import IntegrationRunner, output_failed
from handclasp.integrations.v1 import integration_pb2
from handclasp.integrations.v1 import integration_service_pb2 as messages
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceServicer
from handclasp.relying_party.decisions import Allowed
from handclasp.relying_party.judging import Permission
from handclasp.serving.interceptor import current_peer
from handclasp.serving.peer import Peer

SERVICE_NAME = messages.DESCRIPTOR.services_by_name["IntegrationService"].full_name
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_COLLECTION = "integrations/"
_NONE = "integrations/-"
"""No integration has this name. Asked about if there are none, to learn whether the peer is accepted at all."""

_EXECUTE = permission_pb2.PERMISSION_EXECUTE_INTEGRATIONS

Context = grpc.aio.ServicerContext[Any, Any]


class Authorizer(Protocol):
    """Whoever can say whether a peer may. Both methods raise typed errors, UNAVAILABLE if it cannot be found out."""

    async def require(self, peer: Peer, permission: Permission, resource: str) -> Allowed: ...

    async def allowed(self, peer: Peer, permission: Permission, resources: Sequence[str]) -> list[bool]: ...


class IntegrationService(IntegrationServiceServicer):
    """Needs `CallInterceptor` around it, which maps typed errors and provides the peer."""

    def __init__(
        self, registry: Registry, authorizer: Authorizer, runner: IntegrationRunner, page_tokens: PageTokens
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._runner = runner
        self._page_tokens = page_tokens

    async def ListIntegrations(
        self,
        request: messages.ListIntegrationsRequest,
        context: Context,
    ) -> messages.ListIntegrationsResponse:
        peer = current_peer()
        if not self._registry.names:
            await self._authorizer.allowed(peer, _EXECUTE, [_NONE])
        size = _page_size(request.page_size)
        holder = peer.fingerprint or ""
        after = self._page_tokens.open(request.page_token, holder) if request.page_token else ""
        found: list[str] = []
        rest = [name for name in self._registry.names if name > after]
        # One more than fits tells whether there is a next page.
        while rest and len(found) <= size:
            chunk, rest = rest[:DEFAULT_PAGE_SIZE], rest[DEFAULT_PAGE_SIZE:]
            answers = await self._authorizer.allowed(peer, _EXECUTE, [_COLLECTION + name for name in chunk])
            found += [name for name, allowed in zip(chunk, answers, strict=True) if allowed]
        response = messages.ListIntegrationsResponse()
        for name in found[:size]:
            integration = self._registry.get(name)
            if integration is not None:
                response.integrations.append(_as_message(integration))
        if len(found) > size:
            response.next_page_token = self._page_tokens.seal(found[size - 1], holder)
        return response

    async def GetIntegration(
        self,
        request: messages.GetIntegrationRequest,
        context: Context,
    ) -> integration_pb2.Integration:
        name = _integration_id(request.name)
        try:
            await self._authorizer.require(current_peer(), _EXECUTE, request.name)
        except PermissionDenied:
            # Told no more than somebody who asks for one that does not exist.
            raise _not_found(name, request.version) from None
        integration = self._find(name, request.version)
        message = _as_message(integration)
        message.input_schema.CopyFrom(ParseDict(integration.input_schema, Struct()))
        message.output_schema.CopyFrom(ParseDict(integration.output_schema, Struct()))
        return message

    async def ExecuteIntegration(
        self,
        request: messages.ExecuteIntegrationRequest,
        context: Context,
    ) -> messages.ExecuteIntegrationResponse:
        name = _integration_id(request.name)
        await self._authorizer.require(current_peer(), _EXECUTE, request.name)
        integration = self._find(name, request.version)
        as_json = request.WhichOneof("input_form") == "input_json"
        value = from_json(request.input_json) if as_json else from_struct(request.input)
        output = await self._runner.run(integration, value)
        response = messages.ExecuteIntegrationResponse(integration=request.name, version=integration.version)
        try:
            if as_json:
                response.output_json = to_json(output)
            else:
                response.output.CopyFrom(to_struct(output))
        except NotExactError as error:
            raise FailedPrecondition(
                Reason.OUTPUT_NOT_EXACT,
                f"a structure cannot hold the output: {error}; send the input as `input_json`, and the output comes "
                "back as exact JSON text",
            ) from None
        except (NotJsonError, ValueError, TypeError, RecursionError) as error:
            # Lone surrogates, names that are no text, integers of thousands of digits, lists without an end.
            raise output_failed(integration, error) from None
        return response

    def _find(self, name: str, version: str) -> Integration[Any, Any]:
        integration = self._registry.get(name, version)
        if integration is None:
            raise _not_found(name, version)
        return integration


def _integration_id(resource: str) -> str:
    name = resource.removeprefix(_COLLECTION)
    if name == resource or not NAME_PATTERN.fullmatch(name):
        raise invalid_field("name", "must be `integrations/` and an integration's name, such as integrations/echo")
    return name


def _page_size(wanted: int) -> int:
    if wanted < 0:
        raise invalid_field("page_size", f"must not be negative; leave it at 0 for {DEFAULT_PAGE_SIZE}")
    return min(wanted or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _not_found(name: str, version: str) -> NotFound:
    wanted = f"{name!r}, version {version[:64]!r}," if version else repr(name)
    return NotFound(
        Reason.INTEGRATION_NOT_FOUND,
        f"there is no integration {wanted} that you may run; `handclasp integration list` (ListIntegrations) says which"
        " there are",
    )


def _as_message(integration: Integration[Any, Any]) -> integration_pb2.Integration:
    message = integration_pb2.Integration(
        name=_COLLECTION + integration.name,
        version=integration.version,
        description=integration.description,
        enabled=integration.enabled,
    )
    message.timeout.FromTimedelta(integration.timeout)
    return message
