"""Reads, lists, edits, holds and revokes certificates on file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.certificates import (
    MAXIMUM_DESCRIPTION,
    Certificate,
    CertificateFilter,
    Hold,
    Revocation,
    RevocationReason,
    check_labels,
)
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import certificate_name, not_found, user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.domain.users import check_text
from handclasp.certificate_service.storage.certificates import (
    find_certificate,
    hold_certificate,
    list_certificates,
    reinstate_certificate,
    revoke_certificate,
    revoke_certificates_of,
    save_annotations,
)
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.enrollment_tokens import void_tokens_of
from handclasp.certificate_service.storage.facts import user_facts
from handclasp.certificate_service.storage.users import find_user
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.watching.barrier import Barrier, InForce
from handclasp.errors import FailedPrecondition, NotFound, Reason


class Certificates:
    """Certificates on file, as far as the caller may see them."""

    def __init__(self, database: Database, barrier: Barrier, access: Access, tokens: PageTokens, clock: Clock) -> None:
        self._database = database
        self._barrier = barrier
        self._access = access
        self._tokens = tokens
        self._clock = clock

    async def get(self, caller: Caller, certificate_id: str) -> Certificate:
        """Raises NotFound, CERTIFICATE_NOT_FOUND."""
        return await self._database.query(lambda snapshot: self._find(snapshot, caller, certificate_id))

    async def list(self, caller: Caller, wanted: CertificateFilter, request: PageRequest) -> Page[Certificate]:
        """Raises InvalidArgument for the page size or the page token."""
        after = self._tokens.after(caller, request)
        visible = self._access.managed_users(caller)
        found = await self._database.query(
            lambda snapshot: list_certificates(
                snapshot, visible, wanted, now=self._clock(), after=after, limit=limit(request)
            )
        )
        return self._tokens.page(caller, request, found, lambda certificate: certificate.id)

    async def update(
        self,
        caller: Caller,
        certificate_id: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Certificate:
        """Changes what is not None.

        Raises:
            NotFound: CERTIFICATE_NOT_FOUND.
            InvalidArgument: a text that does not fit.
        """

        async def work(transaction: Transaction) -> Certificate:
            # Both texts are written: what somebody else writes just now must not be undone.
            await transaction.alone()
            found = await self._find(transaction, caller, certificate_id)
            changed = replace(
                found,
                description=found.description
                if description is None
                else check_text(description, "certificate.description", maximum=MAXIMUM_DESCRIPTION),
                labels=found.labels if labels is None else check_labels(labels, "certificate.labels"),
                update_time=self._clock(),
            )
            await save_annotations(transaction, changed)
            return changed

        def log(_: Certificate) -> None:
            CHANGES.info("certificate_updated", certificate=certificate_name(certificate_id), by=caller.user)

        return await self._database.write(work, log)

    async def revoke(self, caller: Caller, certificate_id: str, reason: RevocationReason) -> InForce[Certificate]:
        """Revokes for good; a revoked one stays as it is.

        Raises:
            NotFound: CERTIFICATE_NOT_FOUND.
        """
        revocation = Revocation(self._clock(), reason, caller.user_id)

        async def work(transaction: Transaction) -> tuple[Certificate, bool]:
            await self._find(transaction, caller, certificate_id)
            count = await revoke_certificate(transaction, certificate_id, revocation)
            if count:
                transaction.touch(certificate_name(certificate_id), Effect.WITHDRAWN)
            return await self._find(transaction, caller, certificate_id), count > 0

        return await self._change(caller, work, "certificate_revoked", reason=reason.value)

    async def hold(self, caller: Caller, certificate_id: str) -> InForce[Certificate]:
        """Puts on hold until it is reinstated; one that is on hold stays as it is.

        Raises:
            NotFound: CERTIFICATE_NOT_FOUND.
            FailedPrecondition: CERTIFICATE_REVOKED.
        """
        hold = Hold(self._clock(), caller.user_id)

        async def work(transaction: Transaction) -> tuple[Certificate, bool]:
            _refuse_revoked(await self._find(transaction, caller, certificate_id), "put on hold")
            changed = await hold_certificate(transaction, certificate_id, hold)
            if changed:
                transaction.touch(certificate_name(certificate_id), Effect.WITHDRAWN)
            return await self._find(transaction, caller, certificate_id), changed

        return await self._change(caller, work, "certificate_held")

    async def reinstate(self, caller: Caller, certificate_id: str) -> InForce[Certificate]:
        """Ends a hold; one that is not on hold stays as it is.

        Raises:
            NotFound: CERTIFICATE_NOT_FOUND.
            PermissionDenied: ADMINISTRATOR_PROTECTED.
            FailedPrecondition: CERTIFICATE_REVOKED.
        """

        async def work(transaction: Transaction) -> tuple[Certificate, bool]:
            acting = await readmitted(transaction, caller, self._clock())
            found = await self._find(transaction, acting, certificate_id)
            # It gives: whoever holds the key acts as that user again.
            self._access.protect(acting, (await user_facts(transaction, [found.user_id]))[found.user_id])
            _refuse_revoked(found, "reinstated")
            changed = await reinstate_certificate(transaction, certificate_id, self._clock())
            if changed:
                transaction.touch(certificate_name(certificate_id), Effect.GIVEN)
            return await self._find(transaction, caller, certificate_id), changed

        return await self._change(caller, work, "certificate_reinstated")

    async def revoke_all(self, caller: Caller, user_id: str, reason: RevocationReason) -> InForce[int]:
        """Revokes all certificates of a user, voids the user's enrollment tokens, and returns how many certificates
        that were.

        Raises:
            PermissionDenied: the caller does not manage that user's certificates.
            NotFound: USER_NOT_FOUND.
        """
        self._access.require_manages(caller, user_id)
        revocation = Revocation(self._clock(), reason, caller.user_id)

        async def work(transaction: Transaction) -> tuple[int, int]:
            # Whoever uses such a token just now comes before this, and what they got is revoked, or after it.
            if await find_user(transaction, user_id) is None:
                raise not_found(Reason.USER_NOT_FOUND, user_name(user_id))
            count = await revoke_certificates_of(transaction, user_id, revocation)
            if count:
                transaction.touch(user_name(user_id), Effect.WITHDRAWN)
            return count, await void_tokens_of(transaction, user_id)

        def log(done: tuple[int, int]) -> None:
            count, voided = done
            CHANGES.info(
                "certificates_revoked",
                user=user_name(user_id),
                count=count,
                enrollment_tokens_voided=voided,
                reason=reason.value,
                by=caller.user,
                with_certificate=certificate_name(caller.certificate_id),
                peer_address=caller.address,
            )

        done = await self._barrier.write(work, log)
        return InForce(done.value[0], done.revision, done.settled)

    async def _change(
        self,
        caller: Caller,
        work: Callable[[Transaction], Awaitable[tuple[Certificate, bool]]],
        event: str,
        **said: str,
    ) -> InForce[Certificate]:
        """Returns once it is in force. What `work` says has changed the certificate is logged as that event."""

        def log(done: tuple[Certificate, bool]) -> None:
            certificate, changed = done
            if changed:
                CHANGES.info(event, **_said_of(certificate, caller), **said)

        done = await self._barrier.write(work, log)
        return InForce(done.value[0], done.revision, done.settled)

    async def _find(self, snapshot: Snapshot, caller: Caller, certificate_id: str) -> Certificate:
        found = await find_certificate(snapshot, certificate_id)
        if found is not None and self._access.manages(caller, found.user_id):
            return found
        if found is not None:
            self._access.record_hidden(caller, Permission.USER_MANAGEMENT, user_name(found.user_id))
        raise certificate_not_found(certificate_id)


def _said_of(certificate: Certificate, caller: Caller) -> dict[str, Any]:
    """What the log says of a certificate and of who changed its state."""
    return {
        "certificate": certificate_name(certificate.id),
        "user": user_name(certificate.user_id),
        "serial": certificate.serial,
        "by": caller.user,
        "with_certificate": certificate_name(caller.certificate_id),
        "peer_address": caller.address,
    }


def _refuse_revoked(certificate: Certificate, cannot_be: str) -> None:
    if certificate.revocation is not None:
        raise FailedPrecondition(
            Reason.CERTIFICATE_REVOKED,
            f"{certificate_name(certificate.id)} is revoked for good and cannot be {cannot_be}; issue another one"
            " if its user needs one",
        )


def certificate_not_found(certificate_id: str) -> NotFound:
    return not_found(Reason.CERTIFICATE_NOT_FOUND, certificate_name(certificate_id))
