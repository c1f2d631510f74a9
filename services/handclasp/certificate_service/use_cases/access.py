"""Who may do what within this service. The same rules hold for callers by password and by certificate."""

from __future__ import annotations

from collections.abc import Iterable

from handclasp.certificate_service.domain.decisions import DecisionReason, UserFacts, Verdict, judge_grants
from handclasp.certificate_service.domain.identifiers import (
    SERVER_NAMES,
    decision_name,
    server_name_resource,
    user_name,
)
from handclasp.certificate_service.domain.permissions import ADMINISTRATIVE, EVERYTHING, Grant, Permission, lacking
from handclasp.certificate_service.domain.visibility import Visible, visible_by
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.denial_log import DenialLog, Subject
from handclasp.errors import PermissionDenied, Reason


class Access:
    """Answers from the caller's grants; records each refusal.

    Args:
        protect_administrators: nobody gives credentials or profiles to a user who holds an administrative permission
            that they lack, nor hands out one.
    """

    def __init__(self, denials: DenialLog, *, protect_administrators: bool) -> None:
        self._denials = denials
        self._protect = protect_administrators

    def allows(self, caller: Caller, permission: Permission, resource: str) -> bool:
        return judge_grants(caller.facts, permission, resource).allowed

    def require(self, caller: Caller, permission: Permission, resource: str) -> None:
        """Raises PermissionDenied, ACCESS_DENIED, unless a grant of the caller's allows it."""
        verdict = judge_grants(caller.facts, permission, resource)
        if not verdict.allowed:
            raise self._denied(caller, verdict, permission, resource)

    def require_some(self, caller: Caller, permission: Permission) -> None:
        """Raises PermissionDenied, ACCESS_DENIED, unless the caller holds the permission, on whatever resource."""
        if not any(grant.permission is permission for grant in caller.grants):
            raise self._denied(caller, judge_grants(caller.facts, permission, EVERYTHING), permission, EVERYTHING)

    def manages(self, caller: Caller, user_id: str) -> bool:
        """Whether the caller may manage that user's certificates."""
        resource = user_name(user_id)
        return self.allows(caller, Permission.USER_MANAGEMENT, resource) or (
            caller.user_id == user_id and self.allows(caller, Permission.MANAGE_PERSONAL_SETUP, resource)
        )

    def require_manages(self, caller: Caller, user_id: str) -> None:
        """Raises PermissionDenied, ACCESS_DENIED, unless the caller may manage that user's certificates."""
        if self.manages(caller, user_id):
            return
        own = caller.user_id == user_id
        permission = Permission.MANAGE_PERSONAL_SETUP if own else Permission.USER_MANAGEMENT
        resource = user_name(user_id)
        raise self._denied(caller, judge_grants(caller.facts, permission, resource), permission, resource)

    def managed_users(self, caller: Caller) -> Visible:
        """The users whose certificates the caller may manage."""
        visible = visible_by(caller.grants, Permission.USER_MANAGEMENT, "users")
        return visible.also(caller.user_id) if self.manages(caller, caller.user_id) else visible

    def record_hidden(self, caller: Caller, permission: Permission, resource: str) -> None:
        """Records that something was hidden from the caller, who is told that it does not exist."""
        verdict = judge_grants(caller.facts, permission, resource)
        if not verdict.allowed:
            self._record(caller, verdict, permission, resource)

    def protect(self, caller: Caller, target: UserFacts) -> None:
        """Raises PermissionDenied, ADMINISTRATOR_PROTECTED, if the target holds an administrative permission that the
        caller lacks."""
        self._check_administrative(
            caller, (item.grant for item in target.grants), f"{user_name(target.id)} holds", user_name(target.id)
        )

    def protect_handing_out(self, caller: Caller, grants: Iterable[Grant], resource: str) -> None:
        """Raises PermissionDenied, ADMINISTRATOR_PROTECTED, if an administrative permission among those to be given is
        one that the caller lacks."""
        self._check_administrative(caller, grants, "this would hand out", resource)

    def protect_own_names(self, caller: Caller, resource: str) -> None:
        """Raises PermissionDenied, ADMINISTRATOR_PROTECTED, unless the caller holds every administrative permission.

        For a server certificate with a name of this service's own: whoever has its key can pass for the service, and
        is sent everybody's passwords.
        """
        everything = [Grant(permission) for permission in ADMINISTRATIVE]
        what = "a server certificate with this service's own name takes"
        self._check_administrative(caller, everything, what, resource)

    def vouches_for(self, caller: Caller, server_name: str) -> bool:
        """Whether the caller may give somebody a server name that another user's certificate has: by every
        administrative permission, or by a grant that is on `serverNames/...`, and not on everything.

        Whether or not administrators are protected: whoever manages some users may not have them pass for others.
        """
        resource = server_name_resource(server_name)
        return self.holds_all_administrative(caller) or any(
            _is_on_server_names(grant) and grant.reaches(resource) for grant in caller.grants
        )

    def name_in_force_elsewhere(self, caller: Caller, server_name: str) -> PermissionDenied:
        """The refusal of a server name that the caller does not vouch for. Records it."""
        resource = server_name_resource(server_name)
        rule = f"another user's certificate has the server name {server_name}, and {caller.user} may not share it"
        verdict = Verdict(DecisionReason.RESOURCE_NOT_GRANTED, rule)
        return PermissionDenied(
            Reason.ACCESS_DENIED,
            f"another user's certificate is in force for the server name {server_name}; have that one revoked, or ask"
            f" somebody who holds every administrative permission, or USER_MANAGEMENT by a grant on {resource}",
            metadata={"decision": self._record(caller, verdict, Permission.USER_MANAGEMENT, resource)},
        )

    def require_all_administrative(self, caller: Caller, resource: str) -> None:
        """Raises PermissionDenied, ACCESS_DENIED, unless the caller holds every administrative permission, on `*`.
        Whether or not administrators are protected.

        For what makes somebody a CA of this service: whoever is can issue certificates for anybody.
        """
        missing = _lacking_of_all_administrative(caller)
        if missing:
            first = missing[0]
            raise self._denied(
                caller, judge_grants(caller.facts, first.permission, first.pattern), first.permission, resource
            )

    def holds_all_administrative(self, caller: Caller) -> bool:
        """Whether `require_all_administrative` would let the caller pass."""
        return not _lacking_of_all_administrative(caller)

    def record_hidden_from_lesser(self, caller: Caller, resource: str) -> None:
        """As `record_hidden`, of what is hidden from whoever lacks some administrative permission."""
        for first in _lacking_of_all_administrative(caller)[:1]:
            verdict = judge_grants(caller.facts, first.permission, first.pattern)
            self._record(caller, verdict, first.permission, resource)

    def _check_administrative(self, caller: Caller, grants: Iterable[Grant], what: str, resource: str) -> None:
        if not self._protect:
            return
        wanted = [grant for grant in grants if grant.permission in ADMINISTRATIVE]
        missing = lacking(caller.grants, wanted)
        if not missing and not self.holds_all_administrative(caller):
            # A grant on everything is none on server names: see `vouches_for`.
            missing = lacking(filter(_is_on_server_names, caller.grants), filter(_is_on_server_names, wanted))
        if not missing:
            return
        first = missing[0]
        verdict = judge_grants(caller.facts, first.permission, first.pattern)
        decision = self._record(caller, verdict, first.permission, resource)
        raise PermissionDenied(
            Reason.ADMINISTRATOR_PROTECTED,
            f"{what} the administrative permission {first}, which you lack; ask somebody who has it",
            metadata={"decision": decision},
        )

    def _denied(self, caller: Caller, verdict: Verdict, permission: Permission, resource: str) -> PermissionDenied:
        return PermissionDenied(
            Reason.ACCESS_DENIED,
            f"{caller.user or 'the caller'} lacks the permission {permission} on {resource}; ask for an access profile"
            " that grants it",
            metadata={"decision": self._record(caller, verdict, permission, resource)},
        )

    def _record(self, caller: Caller, verdict: Verdict, permission: Permission, resource: str) -> str:
        subject = Subject(
            user_id=caller.user_id,
            certificate_id=caller.certificate_id,
            permission=permission,
            resource=resource,
            peer_address=caller.address,
            fingerprint=caller.fingerprint,
        )
        return decision_name(self._denials.record(verdict, subject))


def _is_on_server_names(grant: Grant) -> bool:
    return grant.permission is Permission.USER_MANAGEMENT and grant.pattern.startswith(SERVER_NAMES)


def _lacking_of_all_administrative(caller: Caller) -> list[Grant]:
    return lacking(caller.grants, [Grant(permission) for permission in ADMINISTRATIVE])
