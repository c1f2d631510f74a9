"""`handclasp explain`: why something was refused."""

from __future__ import annotations

from typing import Annotated

import typer

from handclasp.authorization.v1.authorization_service_pb2 import DecisionRecord, ExplainDecisionRequest
from handclasp.authorization.v1.decision_pb2 import DecisionReason
from handclasp.authorization.v1.permission_pb2 import Permission
from handclasp.cli.commands import command, single
from handclasp.cli.output import moment, print_details, print_json, to_json
from handclasp.cli.session import Session
from handclasp.cli.values import enum_name, permission_name
from handclasp.client.names import DECISIONS, resource_id, resource_name

app = single("Say why something was refused.")


@command(app, "explain")
async def explain(
    session: Session,
    decision: Annotated[str, typer.Argument(metavar="DECISION_ID", help="As in the refusal.", show_default=False)],
) -> None:
    """Say why something was refused, to those who may see the audit log."""
    request = ExplainDecisionRequest(name=resource_name(DECISIONS, decision))
    async with session.client() as client:
        record = await client.authorization.ExplainDecision(request)
    if session.as_json:
        print_json({"id": resource_id(record.decision.name), **to_json(record)})
    else:
        _print(record)


def _print(record: DecisionRecord) -> None:
    decision = record.decision
    # Else it was decided before anything was asked: who called was not accepted.
    known = decision.permission != Permission.PERMISSION_UNSPECIFIED
    print_details(
        decision.name,
        (
            ("allowed", "yes" if decision.allowed else "no"),
            ("reason", enum_name(DecisionReason, decision.reason, "DECISION_REASON_")),
            ("rule", decision.rule),
            ("permission", permission_name(decision.permission) if known else ""),
            ("resource" if known else "method", decision.resource),
            ("user", decision.user or "unknown"),
            ("certificate", decision.certificate or "unknown"),
            ("fingerprint", record.fingerprint),
            ("called from", record.peer_address),
            ("asked by", record.relying_party),
            ("decided", moment(decision.decide_time)),
            ("how often", f"{record.count}, last at {moment(record.last_time)}" if record.count > 1 else ""),
        ),
    )
