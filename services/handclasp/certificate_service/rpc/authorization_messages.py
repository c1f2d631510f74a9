"""Permissions, grants and decisions: protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Iterable

from handclasp.authorization.v1 import authorization_service_pb2, decision_pb2, permission_pb2
from handclasp.certificate_service.domain.decisions import DecisionReason
from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.identifiers import certificate_name, decision_name, user_name
from handclasp.certificate_service.domain.permissions import Grant, Permission, check_pattern
from handclasp.certificate_service.rpc.fields import EnumTable, to_timestamp
from handclasp.certificate_service.use_cases.check_permission import Decision

PERMISSIONS = EnumTable(permission_pb2.Permission, "PERMISSION_", Permission)
REASONS = EnumTable(decision_pb2.DecisionReason, "DECISION_REASON_", DecisionReason)


def to_grants(grants: Iterable[permission_pb2.Grant], field: str) -> list[Grant]:
    """Raises InvalidArgument, naming the first grant that does not fit."""
    return [
        Grant(
            PERMISSIONS.to_domain(grant.permission, f"{field}.{index}.permission"),
            check_pattern(grant.resource_pattern, f"{field}.{index}.resource_pattern"),
        )
        for index, grant in enumerate(grants)
    ]


def from_grant(grant: Grant) -> permission_pb2.Grant:
    return permission_pb2.Grant(permission=PERMISSIONS.to_proto(grant.permission), resource_pattern=grant.pattern)


def from_decision(decision: Decision) -> decision_pb2.Decision:
    verdict = decision.verdict
    message = decision_pb2.Decision(
        name=decision_name(decision.id),
        allowed=verdict.allowed,
        reason=REASONS.to_proto(verdict.reason),
        rule=verdict.rule,
        user=user_name(decision.user_id),
        certificate=certificate_name(decision.certificate_id),
        resource=decision.resource,
        decide_time=to_timestamp(decision.time),
        expire_time=to_timestamp(verdict.expire_time),
        retry_time=to_timestamp(verdict.retry_time),
        revision=decision.revision,
        rests_on=verdict.rests_on,
    )
    if decision.permission is not None:
        message.permission = PERMISSIONS.to_proto(decision.permission)
    return message


def from_denial(denial: Denial) -> authorization_service_pb2.DecisionRecord:
    decision = decision_pb2.Decision(
        name=decision_name(denial.id),
        allowed=False,
        reason=REASONS.to_proto(denial.reason),
        rule=denial.rule,
        user=user_name(denial.user_id),
        certificate=certificate_name(denial.certificate_id),
        resource=denial.resource,
        decide_time=to_timestamp(denial.first_time),
    )
    if denial.permission is not None:
        decision.permission = PERMISSIONS.to_proto(denial.permission)
    return authorization_service_pb2.DecisionRecord(
        decision=decision,
        count=denial.count,
        last_time=to_timestamp(denial.last_time),
        relying_party=user_name(denial.relying_party),
        peer_address=denial.peer_address,
        fingerprint=denial.fingerprint,
    )
