"""Who may have certificates issued to whom: at once, or later to whoever brings a token."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.identifiers import user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.owners import active_owner, check_is_relying_party
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.x509.issuing import parse_server_name
from handclasp.errors import invalid_field

MAXIMUM_SERVER_NAMES = 20


class IssuingRights:
    """Certificates go to whomever the caller manages.

    Args:
        own_names: DNS names and IP addresses that clients call this service by.
    """

    def __init__(self, access: Access, *, own_names: Sequence[str], clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._own_names = frozenset(map(parse_server_name, own_names))

    def require(self, caller: Caller, user_id: str, server_names: Sequence[str]) -> None:
        """What can be said before anything is read.

        Raises:
            PermissionDenied: ACCESS_DENIED, ADMINISTRATOR_PROTECTED.
            InvalidArgument: a server name is none, or there are too many.
        """
        resource = user_name(user_id)
        self._access.require_manages(caller, user_id)
        if server_names:
            self._access.require(caller, Permission.USER_MANAGEMENT, resource)
        if not self._own_names.isdisjoint(_parse_server_names(server_names)):
            self._access.protect_own_names(caller, resource)

    async def require_in_transaction(
        self, transaction: Transaction, caller: Caller, user_id: str, server_names: Sequence[str]
    ) -> None:
        """The same as of now, and what depends on the user.

        Raises:
            Unauthenticated: what the caller was admitted by was taken away meanwhile.
            NotFound: USER_NOT_FOUND.
            FailedPrecondition: USER_IS_DISABLED.
            PermissionDenied: ADMINISTRATOR_PROTECTED.
            InvalidArgument: there are server names, and the user is no relying party.
        """
        acting = await readmitted(transaction, caller, self._clock())
        # Before the user is looked for: whether there is one is not for everybody to know.
        self.require(acting, user_id, server_names)
        self.require_for(acting, await active_owner(transaction, user_id), server_names)

    def require_for(self, acting: Caller, owner: UserFacts, server_names: Sequence[str]) -> None:
        """The same, of a caller and an owner as they are in the transaction.

        Raises:
            PermissionDenied: ACCESS_DENIED, ADMINISTRATOR_PROTECTED.
            InvalidArgument: there are server names, and the user is no relying party.
        """
        self.require(acting, owner.id, server_names)
        self._access.protect(acting, owner)
        if server_names:
            check_is_relying_party(owner)


def _parse_server_names(names: Sequence[str]) -> list[x509.DNSName | x509.IPAddress]:
    if len(names) > MAXIMUM_SERVER_NAMES:
        raise invalid_field("server_names", f"must be at most {MAXIMUM_SERVER_NAMES}, not {len(names)}")
    return [parse_server_name(name) for name in names]
