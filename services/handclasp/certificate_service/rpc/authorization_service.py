"""`handclasp.authorization.v1.AuthorizationService`."""

from __future__ import annotations

from typing import Any

import grpc

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceServicer
from handclasp.certificate_service.domain.identifiers import parse_decision_name
from handclasp.certificate_service.rpc.admission import the_caller
from handclasp.certificate_service.rpc.authorization_messages import from_denial
from handclasp.certificate_service.use_cases.explain_decision import ExplainDecision

Context = grpc.aio.ServicerContext[Any, Any]


class AuthorizationService(AuthorizationServiceServicer):
    def __init__(self, explain: ExplainDecision) -> None:
        self._explain = explain

    async def ExplainDecision(self, request: pb.ExplainDecisionRequest, context: Context) -> pb.DecisionRecord:
        decision_id = parse_decision_name(request.name)
        return from_denial(await self._explain.explain(the_caller(), decision_id))
