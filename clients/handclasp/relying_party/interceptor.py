"""The interceptor for any gRPC server whose methods are to be allowed by the certificate service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from handclasp.errors import PermissionDenied, Reason
from handclasp.relying_party.authorizer import Authorizer
from handclasp.relying_party.decisions import Allowed
from handclasp.relying_party.judging import Permission
from handclasp.serving.call_budgets import DEFAULT_LIMITS, CallLimits
from handclasp.serving.interceptor import OPEN_PREFIXES, CallInterceptor, Translate, current_call
from handclasp.serving.peer import Peer


@dataclass(frozen=True, slots=True)
class Requirement:
    """What it takes to call a method.

    Args:
        permission: which.
        resource: on what. A function is called with the parsed request, or with None if the method's requests are
            streamed; it returns the resource, or raises a typed error. It must be quick, and must not wait.
    """

    permission: Permission
    resource: str | Callable[[Any], str]


class AuthorizationInterceptor(CallInterceptor):
    """Lets a call through only if its peer holds what the table says. A method that is not in the table is refused;
    health and reflection are open to whoever has a certificate in force.

    In handlers `current_peer()` is who calls, and `current_caller()` the `Allowed` with the user.

    Args:
        requirements: by full method name, `/package.Service/Method`.
        translate, limits: as of `CallInterceptor`.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        requirements: Mapping[str, Requirement],
        *,
        translate: Translate | None = None,
        limits: CallLimits = DEFAULT_LIMITS,
    ) -> None:
        self._authorizer = authorizer
        self._requirements = dict(requirements)
        by_request = any(not isinstance(item.resource, str) for item in self._requirements.values())
        super().__init__(
            self._admit_by_table,
            translate,
            authorize=self._authorize_by_request if by_request else None,
            limits=limits,
        )

    async def _admit_by_table(self, method: str, peer: Peer) -> Allowed:
        requirement = self._requirements.get(method)
        if requirement is None and method.startswith(OPEN_PREFIXES):
            return await self._authorizer.authenticate(peer)
        if requirement is None:
            raise PermissionDenied(
                Reason.ACCESS_DENIED,
                f"nobody may call {method} here: it is not among the methods that this server has requirements for",
            )
        if isinstance(requirement.resource, str):
            return await self._authorizer.require(peer, requirement.permission, requirement.resource)
        return await self._authorizer.authenticate(peer)

    async def _authorize_by_request(self, method: str, peer: Peer, request: Any) -> None:
        requirement = self._requirements.get(method)
        if requirement is None or isinstance(requirement.resource, str):
            return
        resource = requirement.resource(request)
        allowed = await self._authorizer.require(peer, requirement.permission, resource)
        call = current_call()
        if call is not None:
            call.caller = allowed
