"""Users: created, read, changed, disabled, and their passwords."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy.exc import IntegrityError

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.access_profiles import ADMINISTRATOR
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import (
    access_profile_name,
    check_chosen_id,
    not_found,
    user_name,
)
from handclasp.certificate_service.domain.permissions import Grant, Permission
from handclasp.certificate_service.domain.users import (
    MAXIMUM_DISPLAY_NAME,
    MAXIMUM_PROFILES,
    User,
    UserState,
    check_new_password,
    check_text,
)
from handclasp.certificate_service.domain.visibility import visible_by
from handclasp.certificate_service.passwords.checking import PasswordChecker
from handclasp.certificate_service.storage.access_profiles import find_profiles
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.enrollment_tokens import void_tokens_by_password
from handclasp.certificate_service.storage.facts import user_facts
from handclasp.certificate_service.storage.users import (
    add_user,
    count_other_administrators,
    find_password_hash,
    find_user,
    list_users,
    save_user,
    set_password_hash,
)
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.watching.barrier import Barrier, InForce
from handclasp.errors import (
    AlreadyExists,
    FailedPrecondition,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    invalid_field,
)


class Users:
    """Users, as far as the caller may see and change them."""

    def __init__(
        self,
        database: Database,
        barrier: Barrier,
        access: Access,
        tokens: PageTokens,
        *,
        passwords: PasswordChecker,
        minimum_password_length: int,
        clock: Clock,
    ) -> None:
        self._database = database
        self._barrier = barrier
        self._access = access
        self._tokens = tokens
        self._passwords = passwords
        self._minimum_password_length = minimum_password_length
        self._clock = clock

    async def create(
        self, caller: Caller, user_id: str, *, display_name: str, profile_ids: Sequence[str], password: str
    ) -> User:
        """Creates a user; an empty password sets none.

        Raises:
            PermissionDenied, InvalidArgument
            AlreadyExists: USER_EXISTS.
            NotFound: ACCESS_PROFILE_NOT_FOUND.
        """
        check_chosen_id(user_id, "user_id")
        self._access.require(caller, Permission.USER_MANAGEMENT, user_name(user_id))
        text = check_text(display_name, "user.display_name", maximum=MAXIMUM_DISPLAY_NAME)
        profiles = _check_profile_ids(profile_ids)
        password_hash = None
        if password:
            composed = check_new_password(password, "password", minimum=self._minimum_password_length)
            password_hash = await self._passwords.hash(composed, caller.address)
        now = self._clock()
        user = User(
            id=user_id,
            display_name=text,
            state=UserState.ACTIVE,
            profile_ids=profiles,
            has_password=password_hash is not None,
            create_time=now,
            update_time=now,
        )

        async def work(transaction: Transaction) -> None:
            acting = await self._still_manages(transaction, caller, user_id)
            if await find_user(transaction, user_id) is not None:
                raise _user_exists(user_id)
            grants = await _grants_of(transaction, profiles)
            self._access.protect_handing_out(acting, grants, user_name(user_id))
            await add_user(transaction, user, password_hash)

        def log(_: None) -> None:
            CHANGES.info("user_created", user=user_name(user_id), profiles=list(profiles), by=caller.user)

        try:
            await self._database.write(work, log)
        except IntegrityError:  # another process was quicker
            raise _user_exists(user_id) from None
        return user

    async def get(self, caller: Caller, user_id: str) -> User:
        """Raises NotFound, USER_NOT_FOUND."""
        if not self._sees(caller, user_id):
            self._access.record_hidden(caller, Permission.USER_MANAGEMENT, user_name(user_id))
            raise not_found(Reason.USER_NOT_FOUND, user_name(user_id))
        return await self._database.read(lambda snapshot: _existing(snapshot, user_id))

    async def list(self, caller: Caller, request: PageRequest) -> Page[User]:
        """Raises InvalidArgument for the page size or the page token."""
        after = self._tokens.after(caller, request)
        visible = visible_by(caller.grants, Permission.USER_MANAGEMENT, "users").also(caller.user_id)
        found = await self._database.read(
            lambda snapshot: list_users(snapshot, visible, after=after, limit=limit(request))
        )
        return self._tokens.page(caller, request, found, lambda user: user.id)

    async def update(
        self,
        caller: Caller,
        user_id: str,
        *,
        display_name: str | None = None,
        profile_ids: Sequence[str] | None = None,
    ) -> InForce[User]:
        """Changes what is not None.

        Raises:
            PermissionDenied, InvalidArgument
            NotFound: USER_NOT_FOUND, ACCESS_PROFILE_NOT_FOUND.
            FailedPrecondition: LAST_ADMINISTRATOR.
        """
        self._access.require(caller, Permission.USER_MANAGEMENT, user_name(user_id))
        text = None
        if display_name is not None:
            text = check_text(display_name, "user.display_name", maximum=MAXIMUM_DISPLAY_NAME)
        profiles = None if profile_ids is None else _check_profile_ids(profile_ids)

        async def work(transaction: Transaction) -> User:
            acting = await self._still_manages(transaction, caller, user_id)
            user = await _existing(transaction, user_id)
            if text is not None:
                user = replace(user, display_name=text)
            if profiles is not None:
                facts = (await user_facts(transaction, [user_id]))[user_id]
                self._access.protect(acting, facts)
                self._access.protect_handing_out(acting, await _grants_of(transaction, profiles), user_name(user_id))
                if ADMINISTRATOR in user.profile_ids and ADMINISTRATOR not in profiles:
                    await _check_not_last_administrator(transaction, user)
                if profiles != user.profile_ids:
                    transaction.touch(user_name(user_id), Effect.ALTERED)
                user = replace(user, profile_ids=profiles)
            user = replace(user, update_time=self._clock())
            await save_user(transaction, user)
            return user

        def log(user: User) -> None:
            CHANGES.info("user_updated", user=user_name(user_id), profiles=list(user.profile_ids), by=caller.user)

        return await self._barrier.write(work, log)

    async def disable(self, caller: Caller, user_id: str) -> InForce[User]:
        """Disables a user; a disabled one stays as it is.

        Raises:
            PermissionDenied
            NotFound: USER_NOT_FOUND.
            FailedPrecondition: LAST_ADMINISTRATOR.
        """
        self._access.require(caller, Permission.USER_MANAGEMENT, user_name(user_id))

        async def work(transaction: Transaction) -> User:
            user = await _existing(transaction, user_id)
            if user.state is UserState.DISABLED:
                return user
            await _check_not_last_administrator(transaction, user)
            now = self._clock()
            user = replace(user, state=UserState.DISABLED, update_time=now, disable_time=now)
            await save_user(transaction, user)
            transaction.touch(user_name(user_id), Effect.WITHDRAWN)
            return user

        def log(_: User) -> None:
            CHANGES.info("user_disabled", user=user_name(user_id), by=caller.user, peer_address=caller.address)

        return await self._barrier.write(work, log)

    async def enable(self, caller: Caller, user_id: str) -> User:
        """Makes a disabled user active again.

        Raises:
            PermissionDenied
            NotFound: USER_NOT_FOUND.
        """
        self._access.require(caller, Permission.USER_MANAGEMENT, user_name(user_id))

        async def work(transaction: Transaction) -> User:
            acting = await self._still_manages(transaction, caller, user_id)
            user = await _existing(transaction, user_id)
            self._access.protect(acting, (await user_facts(transaction, [user_id]))[user_id])
            if user.state is UserState.ACTIVE:
                return user
            user = replace(user, state=UserState.ACTIVE, update_time=self._clock(), disable_time=None)
            await save_user(transaction, user)
            transaction.touch(user_name(user_id), Effect.GIVEN)
            return user

        def log(_: User) -> None:
            CHANGES.info("user_enabled", user=user_name(user_id), by=caller.user, peer_address=caller.address)

        return await self._database.write(work, log)

    async def set_password(self, caller: Caller, user_id: str, *, new: str, old: str) -> InForce[User]:
        """Sets a password; one's own needs the old one, if there is one.

        Raises:
            PermissionDenied: also OLD_PASSWORD_WRONG and ADMINISTRATOR_PROTECTED.
            InvalidArgument: PASSWORD_NOT_ACCEPTED.
            ResourceExhausted: CREDENTIALS_THROTTLED, PASSWORD_CHECKS_BUSY.
            NotFound: USER_NOT_FOUND.
        """
        own = caller.user_id == user_id
        if not own:
            self._access.require(caller, Permission.USER_MANAGEMENT, user_name(user_id))
        composed = check_new_password(new, "new_password", minimum=self._minimum_password_length)
        before = await self._database.query(lambda snapshot: find_password_hash(snapshot, user_id))
        if own and before is not None:
            await self._check_old_password(caller, old)
        password_hash = await self._passwords.hash(composed, caller.address)

        async def work(transaction: Transaction) -> User:
            acting = await readmitted(transaction, caller, self._clock())
            if not own:
                self._access.require(acting, Permission.USER_MANAGEMENT, user_name(user_id))
            await _existing(transaction, user_id)
            self._access.protect(acting, (await user_facts(transaction, [user_id]))[user_id])
            if own and await find_password_hash(transaction, user_id) != before:
                # Somebody set another one since the old one was checked: theirs stays.
                raise _old_password_wrong()
            await set_password_hash(transaction, user_id, password_hash, self._clock())
            # Whoever knew the old one could have made them.
            await void_tokens_by_password(transaction, user_id)
            transaction.touch(user_name(user_id), Effect.CREDENTIALS)
            return await _existing(transaction, user_id)

        def log(_: User) -> None:
            CHANGES.info("password_set", user=user_name(user_id), by=caller.user, peer_address=caller.address)

        return await self._barrier.write(work, log)

    async def _still_manages(self, transaction: Transaction, caller: Caller, user_id: str) -> Caller:
        acting = await readmitted(transaction, caller, self._clock())
        self._access.require(acting, Permission.USER_MANAGEMENT, user_name(user_id))
        return acting

    async def _check_old_password(self, caller: Caller, old: str) -> None:
        checked = await self._passwords.check(caller.user_id, old, caller.address)
        if checked.retry_time is not None:
            raise ResourceExhausted(
                Reason.CREDENTIALS_THROTTLED,
                "too many wrong passwords for this user, from this address or from all together; wait before the next"
                " attempt",
                retry_after=checked.retry_time - self._clock(),
            )
        if not checked.right:
            raise _old_password_wrong()

    def _sees(self, caller: Caller, user_id: str) -> bool:
        return caller.user_id == user_id or self._access.allows(caller, Permission.USER_MANAGEMENT, user_name(user_id))


def _check_profile_ids(profile_ids: Sequence[str]) -> tuple[str, ...]:
    if len(profile_ids) > MAXIMUM_PROFILES:
        raise invalid_field("user.access_profiles", f"must be at most {MAXIMUM_PROFILES}, not {len(profile_ids)}")
    return tuple(sorted(set(profile_ids)))


async def _existing(snapshot: Snapshot, user_id: str) -> User:
    user = await find_user(snapshot, user_id)
    if user is None:
        raise not_found(Reason.USER_NOT_FOUND, user_name(user_id))
    return user


async def _grants_of(snapshot: Snapshot, profile_ids: Iterable[str]) -> list[Grant]:
    found = await find_profiles(snapshot, profile_ids)
    for profile_id in profile_ids:
        if profile_id not in found:
            raise not_found(Reason.ACCESS_PROFILE_NOT_FOUND, access_profile_name(profile_id))
    return [grant for profile in found.values() for grant in profile.grants]


async def _check_not_last_administrator(snapshot: Snapshot, user: User) -> None:
    if user.state is not UserState.ACTIVE or ADMINISTRATOR not in user.profile_ids:
        return
    if await count_other_administrators(snapshot, user.id) == 0:
        raise FailedPrecondition(
            Reason.LAST_ADMINISTRATOR,
            f"{user_name(user.id)} is the last active user with the access profile administrator; make somebody else"
            " one first",
        )


def _old_password_wrong() -> PermissionDenied:
    return PermissionDenied(
        Reason.OLD_PASSWORD_WRONG,
        "changing one's own password needs the old one, and this is not it; have it set by somebody with"
        " USER_MANAGEMENT if it is lost",
    )


def _user_exists(user_id: str) -> AlreadyExists:
    return AlreadyExists(
        Reason.USER_EXISTS, f"{user_name(user_id)} exists, and ids are never used again; choose another one"
    )
