"""`handclasp.integrations.v1.IntegrationService`: decode, authorize, look up, act, encode; in that order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from handclasp.authoring import NAME_PATTERN, Integration
from handclasp.authorization.v1 import permission_pb2
from handclasp.errors import NotFound, PermissionDenied, Reason, invalid_field
from handclasp.integration_execution.converter import Converter
from handclasp.integration_execution.large_executions import ExecutionRequest
from handclasp.integration_execution.page_tokens import PageTokens
from handclasp.integration_execution.registry import Registry
from handclasp.integration_execution.runner import IntegrationRunner, require_enabled
from handclasp.integrations.v1 import integration_pb2
from handclasp.integrations.v1 import integration_service_pb2 as messages
from handclasp.integrations.v1.integration_service_pb2_grpc import (
    IntegrationServiceServicer,
    add_IntegrationServiceServicer_to_server,
)
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
        self,
        registry: Registry,
        authorizer: Authorizer,
        runner: IntegrationRunner,
        converter: Converter,
        page_tokens: PageTokens,
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._runner = runner
        self._converter = converter
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

    async def ExecuteIntegration(  # type: ignore[override] # requests and responses that are large stay bytes
        self,
        request: ExecutionRequest,
        context: Context,
    ) -> messages.ExecuteIntegrationResponse | bytes:
        name = _integration_id(request.name)
        allowed = await self._authorizer.require(current_peer(), _EXECUTE, request.name)
        integration = self._find(name, request.version)
        require_enabled(integration)
        value = await self._converter.input(integration, request, allowed.user)
        output = await self._runner.run(integration, value)
        return await self._converter.output(integration, request, output, allowed.user)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Adds all methods. What is registered for one later replaces what was registered before."""
        add_IntegrationServiceServicer_to_server(self, server)
        execute = grpc.unary_unary_rpc_method_handler(
            self.ExecuteIntegration, request_deserializer=self._converter.parse, response_serializer=_serialized
        )
        server.add_registered_method_handlers(SERVICE_NAME, {"ExecuteIntegration": execute})

    def _find(self, name: str, version: str) -> Integration[Any, Any]:
        integration = self._registry.get(name, version)
        if integration is None:
            raise _not_found(name, version)
        return integration


def _serialized(response: messages.ExecuteIntegrationResponse | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


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
