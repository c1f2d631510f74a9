"""`handclasp.authorization.v1.AuthorizationService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceServicer
from handclasp.certificate_service.domain.identifiers import parse_decision_name
from handclasp.certificate_service.rpc.admission import the_caller
from handclasp.certificate_service.rpc.authorization_messages import from_denial
from handclasp.certificate_service.rpc.fields import to_datetime
from handclasp.certificate_service.rpc.refusal_messages import from_recorded, to_reports
from handclasp.certificate_service.rpc.watch_messages import from_message, to_position
from handclasp.certificate_service.use_cases.explain_decision import ExplainDecision
from handclasp.certificate_service.use_cases.list_refusals import ListRefusals
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.use_cases.report_refusals import ReportRefusals
from handclasp.certificate_service.use_cases.watch_authorization import Watch, WatchAuthorization
from handclasp.errors import InvalidArgument, Reason
from handclasp.serving.incidents import unforeseen

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[pb.WatchAuthorizationRequest]

_START_SECONDS = 5.0

_WATCH = f"/{pb.DESCRIPTOR.services_by_name['AuthorizationService'].full_name}/WatchAuthorization"


class AuthorizationService(AuthorizationServiceServicer):
    def __init__(
        self,
        explain: ExplainDecision,
        watching: WatchAuthorization,
        list_refusals: ListRefusals,
        report_refusals: ReportRefusals,
    ) -> None:
        self._explain = explain
        self._watching = watching
        self._list_refusals = list_refusals
        self._report_refusals = report_refusals

    async def ExplainDecision(self, request: pb.ExplainDecisionRequest, context: Context) -> pb.DecisionRecord:
        decision_id = parse_decision_name(request.name)
        return from_denial(await self._explain.explain(the_caller(), decision_id))

    async def ListRefusals(self, request: pb.ListRefusalsRequest, context: Context) -> pb.ListRefusalsResponse:
        since = to_datetime(request.since, "since") if request.HasField("since") else None
        wanted = PageRequest(request.page_size, request.page_token, list_hash("refusals", since))
        page = await self._list_refusals.list(the_caller(), wanted, since)
        return pb.ListRefusalsResponse(refusals=map(from_recorded, page.items), next_page_token=page.next_token)

    async def ReportRefusals(self, request: pb.ReportRefusalsRequest, context: Context) -> pb.ReportRefusalsResponse:
        caller = the_caller()
        # Before anything of it is looked at.
        self._report_refusals.require_relying_party(caller)
        self._report_refusals.report(caller, to_reports(request.refusals))
        return pb.ReportRefusalsResponse()

    async def WatchAuthorization(
        self, request_iterator: Requests, context: Context
    ) -> AsyncIterator[pb.WatchAuthorizationResponse]:
        start = await _start(request_iterator)
        applied = to_position(start.applied) if start.HasField("applied") else None
        with self._watching.open(the_caller(), start.process_id, applied) as watch:
            listening = asyncio.create_task(_listen(request_iterator, watch))
            try:
                async for message in watch.messages():
                    yield from_message(message)
            finally:
                listening.cancel()


async def _start(requests: Requests) -> pb.WatchAuthorizationRequest.Start:
    try:
        async with asyncio.timeout(_START_SECONDS):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        first = None
    if first is None or first.WhichOneof("message") != "start":
        raise InvalidArgument(Reason.WATCH_NOT_STARTED, "a watch begins with a `start`, within a few seconds; send one")
    return first.start


async def _listen(requests: Requests, watch: Watch) -> None:
    """Takes in what the relying party says, until it says no more."""
    try:
        async for request in requests:
            match request.WhichOneof("message"):
                case "ping":
                    watch.ping(request.ping.number, request.ping.acknowledged_revision)
                case "acknowledgement":
                    watch.acknowledge(request.acknowledgement.revision)
                case _:
                    fault = "on a watch that has begun, only pings and acknowledgements are taken; send those"
                    watch.end(InvalidArgument(Reason.REQUEST_MALFORMED, fault))
                    return
    except InvalidArgument as refusal:
        watch.end(refusal)
    except Exception as error:  # noqa: BLE001 - the stream must not end as if the relying party had ended it
        watch.end(unforeseen(_WATCH, error))
    finally:
        # Also if the stream broke, which the end of the call says by itself.
        watch.end()
