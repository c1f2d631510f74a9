"""Refusals: protobuf to domain and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from handclasp.authorization.v1 import refusal_pb2
from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.identifiers import certificate_name, decision_name, refusal_name, user_name
from handclasp.certificate_service.domain.refusals import Refusal, RefusalKind, Refused
from handclasp.certificate_service.rpc.fields import EnumTable, to_timestamp
from handclasp.certificate_service.use_cases.report_refusals import Report
from handclasp.errors import invalid_field

KINDS = EnumTable(refusal_pb2.Refusal.Kind, "KIND_", RefusalKind)

MAXIMUM_REPORTS = 100
_MAXIMUM_COUNT = 1_000_000_000

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_FINGERPRINT = re.compile(r"(?:[0-9a-f]{64})?", re.ASCII)
# Names of listeners, methods, addresses: printable ASCII without spaces.
_PLAIN = re.compile(r"[!-~]{0,256}", re.ASCII)


def from_recorded(recorded: Denial | Refusal) -> refusal_pb2.Refusal:
    return _from_denial(recorded) if isinstance(recorded, Denial) else _from_refusal(recorded)


def to_reports(messages: Sequence[refusal_pb2.Refusal]) -> list[Report]:
    """What a relying party reports. Who it is, is not among it.

    Raises:
        InvalidArgument: there are none or too many, or one does not fit.
    """
    if not 1 <= len(messages) <= MAXIMUM_REPORTS:
        raise invalid_field("refusals", f"must be 1 to {MAXIMUM_REPORTS}, not {len(messages)}; report again for more")
    return [_to_report(message, f"refusals.{index}") for index, message in enumerate(messages)]


def _to_report(message: refusal_pb2.Refusal, field: str) -> Report:
    kind = KINDS.to_domain(message.kind, f"{field}.kind")
    if kind is RefusalKind.DECISION:
        raise invalid_field(f"{field}.kind", "must be HANDSHAKE or CALL; decisions are recorded where they are made")
    if _REASON.fullmatch(message.reason) is None:
        raise invalid_field(f"{field}.reason", "must be 1 to 64 of A-Z, 0-9 and _, beginning with a letter")
    if not 1 <= message.count <= _MAXIMUM_COUNT:
        raise invalid_field(f"{field}.count", f"must be 1 to {_MAXIMUM_COUNT}")
    for name in ("listener", "resource", "peer_address"):
        if _PLAIN.fullmatch(getattr(message, name)) is None:
            raise invalid_field(f"{field}.{name}", "must be at most 256 printable ASCII characters, without spaces")
    if _FINGERPRINT.fullmatch(message.fingerprint) is None:
        raise invalid_field(f"{field}.fingerprint", "must be 64 lower-case hexadecimal digits, or empty")
    refused = Refused(
        kind=kind,
        reason=message.reason,
        listener=message.listener,
        method=message.resource,
        peer_address=message.peer_address,
        fingerprint=message.fingerprint,
    )
    return Report(refused, message.count)


def _from_denial(denial: Denial) -> refusal_pb2.Refusal:
    return refusal_pb2.Refusal(
        name=decision_name(denial.id),
        kind=KINDS.to_proto(RefusalKind.DECISION),
        reason=denial.reason.value,
        rule=denial.rule,
        resource=denial.resource,
        user=user_name(denial.user_id),
        certificate=certificate_name(denial.certificate_id),
        relying_party=user_name(denial.relying_party),
        peer_address=denial.peer_address,
        fingerprint=denial.fingerprint,
        first_time=to_timestamp(denial.first_time),
        last_time=to_timestamp(denial.last_time),
        count=denial.count,
    )


def _from_refusal(refusal: Refusal) -> refusal_pb2.Refusal:
    refused = refusal.refused
    return refusal_pb2.Refusal(
        name=refusal_name(refusal.id),
        kind=KINDS.to_proto(refused.kind),
        reason=refused.reason,
        listener=refused.listener,
        resource=refused.method,
        relying_party=user_name(refused.relying_party),
        peer_address=refused.peer_address,
        fingerprint=refused.fingerprint,
        first_time=to_timestamp(refusal.first_time),
        last_time=to_timestamp(refusal.last_time),
        count=refusal.count,
    )
