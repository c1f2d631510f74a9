"""Who may have certificates issued to whom: at once, or later to whoever brings a token."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.identifiers import user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.storage.server_names import names_in_force
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.owners import active_owner, check_is_relying_party
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.x509.issuing import canonical_server_name
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
        self._own_names = frozenset(map(canonical_server_name, own_names))

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
        if not self._own_names.isdisjoint(_canonical(server_names)):
            self._access.protect_own_names(caller, resource)

    async def require_in_transaction(
        self, transaction: Transaction, caller: Caller, user_id: str, server_names: Sequence[str]
    ) -> frozenset[str]:
        """The same as of now, and what depends on the user. Returns the names that the caller vouches for: those that
        they might give although they are in force elsewhere.

        Raises:
            Unauthenticated: what the caller was admitted by was taken away meanwhile.
            NotFound: USER_NOT_FOUND.
            FailedPrecondition: USER_IS_DISABLED.
            PermissionDenied: ADMINISTRATOR_PROTECTED; ACCESS_DENIED, a name is in force elsewhere.
            InvalidArgument: there are server names, and the user is no relying party.
        """
        acting = await readmitted(transaction, caller, self._clock())
        # Before the user is looked for: whether there is one is not for everybody to know.
        self.require(acting, user_id, server_names)
        return await self.require_for(transaction, acting, await active_owner(transaction, user_id), server_names)

    async def require_for(
        self, transaction: Transaction, acting: Caller, owner: UserFacts, server_names: Sequence[str]
    ) -> frozenset[str]:
        """The same, of a caller and an owner as they are in the transaction.

        Raises:
            PermissionDenied: ACCESS_DENIED, ADMINISTRATOR_PROTECTED.
            InvalidArgument: there are server names, and the user is no relying party.
        """
        self.require(acting, owner.id, server_names)
        self._access.protect(acting, owner)
        return await self.require_names(transaction, acting, owner, server_names)

    async def require_names(
        self,
        transaction: Transaction,
        acting: Caller,
        owner: UserFacts,
        server_names: Sequence[str],
        vouched: Collection[str] = (),
    ) -> frozenset[str]:
        """Whether the owner may have a certificate with those names: whoever has its key can pass for each of them.

        Args:
            vouched: names for which somebody vouched before. One that is in force elsewhere needs somebody who does:
                whoever holds every administrative permission, or USER_MANAGEMENT by a grant on `serverNames/...`.

        Returns:
            The names that are vouched for, then or now.

        Raises:
            PermissionDenied: ACCESS_DENIED.
            InvalidArgument: the owner is no relying party.
        """
        if not server_names:
            return frozenset()
        check_is_relying_party(owner)
        names = _canonical(server_names)
        good = frozenset(name for name in names if name in vouched or self._access.vouches_for(acting, name))
        elsewhere = await names_in_force(transaction, names - good, now=self._clock(), except_of=owner.id)
        if elsewhere:
            raise self._access.name_in_force_elsewhere(acting, elsewhere[0].name)
        return good


def _canonical(names: Sequence[str]) -> frozenset[str]:
    if len(names) > MAXIMUM_SERVER_NAMES:
        raise invalid_field("server_names", f"must be at most {MAXIMUM_SERVER_NAMES}, not {len(names)}")
    return frozenset(map(canonical_server_name, names))
