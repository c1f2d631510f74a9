"""`handclasp explain`: why something was refused; without an id, what was refused last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from handclasp.authorization.v1.authorization_service_pb2 import (
    DecisionRecord,
    ExplainDecisionRequest,
    ListRefusalsRequest,
)
from handclasp.authorization.v1.decision_pb2 import DecisionReason
from handclasp.authorization.v1.permission_pb2 import Permission
from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.cli.commands import command, single
from handclasp.cli.output import moment, print_details, print_json, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.values import duration, enum_name, permission_name, to_timestamp
from handclasp.client.names import DECISIONS, resource_id, resource_name
from handclasp.client.paging import items

app = single("Say why something was refused.")

_LIMIT = 20
_UNKNOWN = "unknown"
_LEAF_SHOWN = 16  # digits of a fingerprint


@command(app, "explain")
async def explain(
    session: Session,
    decision: Annotated[
        str | None,
        typer.Argument(metavar="[DECISION_ID]", help="As in the refusal; without, what was refused last is listed."),
    ] = None,
    *,
    since: Annotated[
        str | None, typer.Option(metavar="30m|2h|7d", help="Only what was refused in that time; without an id.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"How many at most; {_LIMIT} if not said; without an id.")
    ] = None,
) -> None:
    """Say why something was refused; or without an id, list what was refused last: TLS handshakes, calls, decisions.
    For those who may see the audit log."""
    if decision is None:
        await _list(session, since, _LIMIT if limit is None else limit)
        return
    if since is not None or limit is not None:
        raise typer.BadParameter("--since and --limit are for the list of what was refused, which has no id")
    request = ExplainDecisionRequest(name=resource_name(DECISIONS, decision))
    async with session.client() as client:
        record = await client.authorization.ExplainDecision(request)
    if session.as_json:
        print_json({"id": resource_id(record.decision.name), **to_json(record)})
    else:
        _print(record)


async def _list(session: Session, since: str | None, limit: int) -> None:
    request = ListRefusalsRequest()
    if since is not None:
        request.since.CopyFrom(to_timestamp(datetime.now(UTC) - duration(since)))
    async with session.client() as client:
        method = client.authorization.ListRefusals
        found = [item async for item in items(method, request, lambda page: page.refusals, limit)]
    if session.as_json:
        print_json({"refusals": [to_json(refusal) for refusal in found]})
        return
    print_table(
        ("LAST", "COUNT", "WHAT", "REASON", "WHO", "FROM", "WHERE", "DECISION"),
        [_row(refusal) for refusal in found],
        "nothing was refused, or nothing that is still kept",
        whole=("COUNT", "WHAT", "REASON", "DECISION"),
    )


def _row(refusal: Refusal) -> tuple[str, ...]:
    what = enum_name(Refusal.Kind, refusal.kind, "KIND_").lower()
    leaf = f"certificate {refusal.fingerprint[:_LEAF_SHOWN]}..." if refusal.fingerprint else _UNKNOWN
    where = refusal.listener or refusal.resource
    if refusal.relying_party:
        where = f"{where} ({refusal.relying_party})"
    return (
        moment(refusal.last_time),
        str(refusal.count),
        what,
        refusal.reason,
        refusal.user or refusal.certificate or leaf,
        refusal.peer_address or _UNKNOWN,
        where,
        resource_id(refusal.name) if refusal.kind == Refusal.Kind.KIND_DECISION else "",
    )


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
            ("user", decision.user or _UNKNOWN),
            ("certificate", decision.certificate or _UNKNOWN),
            ("fingerprint", record.fingerprint),
            ("called from", record.peer_address),
            ("asked by", record.relying_party),
            ("decided", moment(decision.decide_time)),
            ("how often", f"{record.count}, last at {moment(record.last_time)}" if record.count > 1 else ""),
        ),
    )
