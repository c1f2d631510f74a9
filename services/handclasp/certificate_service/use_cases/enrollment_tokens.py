"""Makes enrollment tokens, for those who could as well have the certificate issued themselves, and takes them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.durations import check_lifetime, utc
from handclasp.certificate_service.domain.enrollment_tokens import (
    DEFAULT_LIFETIME,
    EnrollmentToken,
    Purpose,
    Use,
    hash_token,
    new_token,
)
from handclasp.certificate_service.domain.identifiers import (
    authority_name,
    certificate_name,
    enrollment_token_name,
    new_id,
    not_found,
    user_name,
)
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.enrollment_tokens import (
    add_token,
    find_token_by_id,
    list_good_tokens,
    void_token,
)
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.issuing_rights import IssuingRights
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.errors import FailedPrecondition, Reason

ANY_AUTHORITY = authority_name("*")


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token, to be shown once, and what is kept of it."""

    token: str = field(repr=False)
    kept: EnrollmentToken


class EnrollmentTokens:
    """Makes tokens for users that the caller manages, and for replicas, and takes them back.

    Args:
        tokens: of the pages of the list.
        maximum_lifetime: the longest lifetime a caller may ask for.
    """

    def __init__(
        self,
        database: Database,
        access: Access,
        rights: IssuingRights,
        tokens: PageTokens,
        *,
        maximum_lifetime: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._access = access
        self._rights = rights
        self._tokens = tokens
        self._maximum_lifetime = maximum_lifetime
        self._clock = clock

    async def create(
        self, caller: Caller, user_id: str, *, server_names: tuple[str, ...], lifetime: timedelta | None
    ) -> MadeToken:
        """Makes a token for a certificate of a user; see `CertificateService.CreateEnrollmentToken`.

        Raises:
            PermissionDenied, InvalidArgument, NotFound, FailedPrecondition
        """
        self._rights.require(caller, user_id, server_names)
        made = self._new(caller, Purpose.CERTIFICATE, user_id, server_names, lifetime)

        async def work(transaction: Transaction) -> None:
            await self._rights.require_in_transaction(transaction, caller, user_id, server_names)
            # Nothing that decisions rest on: the revision moves when the certificate is issued.
            await add_token(transaction, made.kept)

        await self._database.write(work, lambda _: _log("enrollment_token_created", made.kept, caller))
        return made

    async def create_for_replica(self, caller: Caller, *, lifetime: timedelta | None) -> MadeToken:
        """Makes a token for another replica of this service.

        It is the caller's own: when the caller is disabled, or the certificate that they call with is revoked or put on
        hold, it is worth nothing; nor when they called by password, and another one is set.

        Raises:
            PermissionDenied: ACCESS_DENIED.
            InvalidArgument: LIFETIME_NOT_ACCEPTED.
            FailedPrecondition: DATABASE_NOT_SHARED.
        """
        self._access.require_all_administrative(caller, ANY_AUTHORITY)
        if not self._database.shared:
            raise FailedPrecondition(
                Reason.DATABASE_NOT_SHARED,
                "the database is SQLite, which a single process serves; replicas need PostgreSQL (database_url)",
            )
        made = self._new(caller, Purpose.REPLICA, caller.user_id, (), lifetime)

        async def work(transaction: Transaction) -> None:
            acting = await readmitted(transaction, caller, self._clock())
            self._access.require_all_administrative(acting, ANY_AUTHORITY)
            await add_token(transaction, made.kept)

        await self._database.write(work, lambda _: _log("enrollment_token_created", made.kept, caller))
        return made

    async def list(self, caller: Caller, user_id: str | None, request: PageRequest) -> Page[EnrollmentToken]:
        """Those that are still good; see `CertificateService.ListEnrollmentTokens`.

        Raises:
            InvalidArgument: the page size or the page token.
        """
        after = self._tokens.after(caller, request)
        found = await self._database.query(
            lambda snapshot: list_good_tokens(
                snapshot,
                self._access.managed_users(caller),
                with_replicas=self._access.holds_all_administrative(caller),
                user_id=user_id,
                now=self._clock(),
                after=after,
                limit=limit(request),
            )
        )
        return self._tokens.page(caller, request, found, lambda token: token.id)

    async def revoke(self, caller: Caller, token_id: str) -> None:
        """Takes one back; see `CertificateService.RevokeEnrollmentToken`.

        Raises:
            NotFound: ENROLLMENT_TOKEN_NOT_FOUND.
            FailedPrecondition: ENROLLMENT_TOKEN_SPENT.
        """
        name = enrollment_token_name(token_id)

        async def work(transaction: Transaction) -> EnrollmentToken:
            # Whoever uses it just now comes before this, and it is spent, or after it.
            await transaction.alone()
            found = await find_token_by_id(transaction, token_id)
            if found is None or not self._sees(caller, found):
                raise not_found(Reason.ENROLLMENT_TOKEN_NOT_FOUND, name)
            if found.use is not None:
                raise _spent(found, found.use)
            await void_token(transaction, token_id)
            return found

        await self._database.write(work, lambda found: _log("enrollment_token_revoked", found, caller))

    def _sees(self, caller: Caller, token: EnrollmentToken) -> bool:
        """Records it if not."""
        if token.purpose is Purpose.REPLICA:
            sees = self._access.holds_all_administrative(caller)
            if not sees:
                self._access.record_hidden_from_lesser(caller, ANY_AUTHORITY)
            return sees
        sees = self._access.manages(caller, token.user_id)
        if not sees:
            self._access.record_hidden(caller, Permission.USER_MANAGEMENT, user_name(token.user_id))
        return sees

    def _new(
        self,
        caller: Caller,
        purpose: Purpose,
        user_id: str,
        server_names: tuple[str, ...],
        lifetime: timedelta | None,
    ) -> MadeToken:
        now = self._clock()
        token = new_token()
        kept = EnrollmentToken(
            id=new_id(now),
            token_hash=hash_token(token) or "",
            purpose=purpose,
            user_id=user_id,
            server_names=server_names,
            create_time=now,
            expire_time=now + self._lifetime(lifetime),
            created_by=caller.user_id,
            created_with=caller.certificate_id,
        )
        return MadeToken(token, kept)

    def _lifetime(self, wanted: timedelta | None) -> timedelta:
        if wanted is None:
            return min(DEFAULT_LIFETIME, self._maximum_lifetime)
        return check_lifetime(wanted, self._maximum_lifetime)


def _spent(token: EnrollmentToken, use: Use) -> FailedPrecondition:
    given, advice = certificate_name(use.given_id), "revoke that"
    if token.purpose is Purpose.REPLICA:
        given, advice = authority_name(use.given_id), "look at the machine that it went to"
    return FailedPrecondition(
        Reason.ENROLLMENT_TOKEN_SPENT,
        f"{enrollment_token_name(token.id)} was used at {utc(use.time)} and gave {given}; {advice}",
    )


def _log(event: str, kept: EnrollmentToken, caller: Caller) -> None:
    CHANGES.info(
        event,
        enrollment_token=enrollment_token_name(kept.id),
        purpose=kept.purpose.value,
        user=user_name(kept.user_id),
        server_names=list(kept.server_names),
        expire_time=kept.expire_time.isoformat(),
        by=caller.user,
        with_certificate=certificate_name(caller.certificate_id),
        peer_address=caller.address,
    )
