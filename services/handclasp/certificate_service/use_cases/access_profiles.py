"""Access profiles: created, read, changed, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import IntegrityError

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.access_profiles import (
    MAXIMUM_DESCRIPTION,
    MAXIMUM_GRANTS,
    AccessProfile,
)
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import access_profile_name, check_chosen_id, not_found
from handclasp.certificate_service.domain.permissions import Grant, Permission, lacking
from handclasp.certificate_service.domain.users import check_text
from handclasp.certificate_service.domain.visibility import Visible, visible_by
from handclasp.certificate_service.storage.access_profiles import (
    add_profile,
    delete_profile,
    find_profiles,
    list_profiles,
    profile_in_use,
    save_profile,
)
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.users import find_user
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.watching.barrier import Barrier, InForce
from handclasp.errors import AlreadyExists, FailedPrecondition, Reason, invalid_field


class AccessProfiles:
    """Access profiles, as far as the caller may see and change them."""

    def __init__(self, database: Database, barrier: Barrier, access: Access, tokens: PageTokens, clock: Clock) -> None:
        self._database = database
        self._barrier = barrier
        self._access = access
        self._tokens = tokens
        self._clock = clock

    async def create(
        self, caller: Caller, profile_id: str, *, description: str, grants: Sequence[Grant]
    ) -> AccessProfile:
        """Creates an access profile.

        Raises:
            PermissionDenied, InvalidArgument
            AlreadyExists: ACCESS_PROFILE_EXISTS.
        """
        check_chosen_id(profile_id, "access_profile_id")
        name = access_profile_name(profile_id)
        self._access.require(caller, Permission.ACCESS_CONTROL, name)
        held = _check_grants(grants)
        self._access.protect_handing_out(caller, held, name)
        now = self._clock()
        text = check_text(description, "access_profile.description", maximum=MAXIMUM_DESCRIPTION)
        profile = AccessProfile(profile_id, text, held, built_in=False, create_time=now, update_time=now)

        async def work(transaction: Transaction) -> None:
            acting = await readmitted(transaction, caller, self._clock())
            self._access.require(acting, Permission.ACCESS_CONTROL, name)
            self._access.protect_handing_out(acting, held, name)
            if await find_profiles(transaction, [profile_id]):
                raise _profile_exists(name)
            await add_profile(transaction, profile)

        try:
            await self._database.write(work, lambda _: _log("access_profile_created", profile, caller))
        except IntegrityError:  # another process was quicker
            raise _profile_exists(name) from None
        return profile

    async def get(self, caller: Caller, profile_id: str) -> AccessProfile:
        """Raises NotFound, ACCESS_PROFILE_NOT_FOUND."""
        if not (await self._visible(caller)).sees(profile_id):
            self._access.record_hidden(caller, Permission.ACCESS_CONTROL, access_profile_name(profile_id))
            raise not_found(Reason.ACCESS_PROFILE_NOT_FOUND, access_profile_name(profile_id))
        return await self._database.read(lambda snapshot: _existing(snapshot, profile_id))

    async def list(self, caller: Caller, request: PageRequest) -> Page[AccessProfile]:
        """Raises InvalidArgument for the page size or the page token."""
        after = self._tokens.after(caller, request)
        visible = await self._visible(caller)
        found = await self._database.read(
            lambda snapshot: list_profiles(snapshot, visible, after=after, limit=limit(request))
        )
        return self._tokens.page(caller, request, found, lambda profile: profile.id)

    async def update(
        self,
        caller: Caller,
        profile_id: str,
        *,
        description: str | None = None,
        grants: Sequence[Grant] | None = None,
    ) -> InForce[AccessProfile]:
        """Changes what is not None.

        Raises:
            PermissionDenied, InvalidArgument
            NotFound: ACCESS_PROFILE_NOT_FOUND.
            FailedPrecondition: ACCESS_PROFILE_BUILT_IN.
        """
        name = access_profile_name(profile_id)
        self._access.require(caller, Permission.ACCESS_CONTROL, name)
        text = None
        if description is not None:
            text = check_text(description, "access_profile.description", maximum=MAXIMUM_DESCRIPTION)
        held = None if grants is None else _check_grants(grants)

        async def work(transaction: Transaction) -> AccessProfile:
            acting = await readmitted(transaction, caller, self._clock())
            self._access.require(acting, Permission.ACCESS_CONTROL, name)
            profile = await _changeable(transaction, profile_id)
            if held is not None:
                self._access.protect_handing_out(acting, lacking(profile.grants, held), name)
                if held != profile.grants:
                    transaction.touch(name, Effect.ALTERED)
                profile = replace(profile, grants=held)
            if text is not None:
                profile = replace(profile, description=text)
            profile = replace(profile, update_time=self._clock())
            await save_profile(transaction, profile)
            return profile

        return await self._barrier.write(work, lambda profile: _log("access_profile_updated", profile, caller))

    async def delete(self, caller: Caller, profile_id: str) -> None:
        """Deletes an access profile that no user has.

        Raises:
            PermissionDenied
            NotFound: ACCESS_PROFILE_NOT_FOUND.
            FailedPrecondition: ACCESS_PROFILE_BUILT_IN, ACCESS_PROFILE_IN_USE.
        """
        name = access_profile_name(profile_id)
        self._access.require(caller, Permission.ACCESS_CONTROL, name)

        async def work(transaction: Transaction) -> None:
            await transaction.alone()
            await _changeable(transaction, profile_id)
            if await profile_in_use(transaction, profile_id):
                raise FailedPrecondition(
                    Reason.ACCESS_PROFILE_IN_USE, f"there are users with {name}; take it away from them first"
                )
            await delete_profile(transaction, profile_id)

        def log(_: None) -> None:
            CHANGES.info("access_profile_deleted", access_profile=name, by=caller.user)

        await self._database.write(work, log)

    async def _visible(self, caller: Caller) -> Visible:
        if any(grant.permission is Permission.USER_MANAGEMENT for grant in caller.grants):
            # Whoever assigns access profiles has to see what there is.
            return Visible(prefixes=frozenset({""}))
        visible = visible_by(caller.grants, Permission.ACCESS_CONTROL, "accessProfiles")
        user = await self._database.read(lambda snapshot: find_user(snapshot, caller.user_id))
        return visible.also(*user.profile_ids) if user is not None else visible


def _log(what: str, profile: AccessProfile, caller: Caller) -> None:
    grants = [str(grant) for grant in profile.grants]
    CHANGES.info(what, access_profile=access_profile_name(profile.id), grants=grants, by=caller.user)


def _check_grants(grants: Sequence[Grant]) -> tuple[Grant, ...]:
    if len(grants) > MAXIMUM_GRANTS:
        raise invalid_field("access_profile.grants", f"must be at most {MAXIMUM_GRANTS}, not {len(grants)}")
    return tuple(dict.fromkeys(grants))


async def _existing(snapshot: Snapshot, profile_id: str) -> AccessProfile:
    found = (await find_profiles(snapshot, [profile_id])).get(profile_id)
    if found is None:
        raise not_found(Reason.ACCESS_PROFILE_NOT_FOUND, access_profile_name(profile_id))
    return found


async def _changeable(snapshot: Snapshot, profile_id: str) -> AccessProfile:
    profile = await _existing(snapshot, profile_id)
    if profile.built_in:
        raise FailedPrecondition(
            Reason.ACCESS_PROFILE_BUILT_IN,
            f"{access_profile_name(profile_id)} is built in and stays as it is; create one of your own",
        )
    return profile


def _profile_exists(name: str) -> AlreadyExists:
    return AlreadyExists(Reason.ACCESS_PROFILE_EXISTS, f"{name} exists; choose another id, or update it")
