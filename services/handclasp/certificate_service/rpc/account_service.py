"""`handclasp.accounts.v1.AccountService`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from handclasp.accounts.v1 import access_profile_pb2, user_pb2
from handclasp.accounts.v1 import account_service_pb2 as pb
from handclasp.accounts.v1.account_service_pb2_grpc import AccountServiceServicer
from handclasp.certificate_service.domain.access_profiles import AccessProfile
from handclasp.certificate_service.domain.identifiers import (
    access_profile_name,
    parse_access_profile_name,
    parse_user_name,
    user_name,
)
from handclasp.certificate_service.domain.users import User, UserState
from handclasp.certificate_service.rpc.admission import the_caller
from handclasp.certificate_service.rpc.authorization_messages import from_grant, to_grants
from handclasp.certificate_service.rpc.barrier_metadata import in_force
from handclasp.certificate_service.rpc.fields import EnumTable, masked, to_timestamp
from handclasp.certificate_service.use_cases.access_profiles import AccessProfiles
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.use_cases.users import Users

Context = grpc.aio.ServicerContext[Any, Any]

_USER_STATES = EnumTable(user_pb2.User.State, "STATE_", UserState)


class AccountService(AccountServiceServicer):
    def __init__(self, users: Users, profiles: AccessProfiles) -> None:
        self._users = users
        self._profiles = profiles

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> user_pb2.User:
        user = await self._users.create(
            the_caller(),
            request.user_id,
            display_name=request.user.display_name,
            profile_ids=_profile_ids(request.user.access_profiles),
            password=request.password,
        )
        return _from_user(user)

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> user_pb2.User:
        return _from_user(await self._users.get(the_caller(), parse_user_name(request.name)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        wanted = PageRequest(request.page_size, request.page_token, list_hash("users"))
        page = await self._users.list(the_caller(), wanted)
        return pb.ListUsersResponse(users=map(_from_user, page.items), next_page_token=page.next_token)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> user_pb2.User:
        user_id = parse_user_name(request.user.name, "user.name")
        changes = masked(request.update_mask, ("display_name", "access_profiles"), request.user)
        updated = await self._users.update(
            the_caller(),
            user_id,
            display_name=request.user.display_name if "display_name" in changes else None,
            profile_ids=_profile_ids(request.user.access_profiles) if "access_profiles" in changes else None,
        )
        return _from_user(in_force(updated, context))

    async def DisableUser(self, request: pb.DisableUserRequest, context: Context) -> user_pb2.User:
        return _from_user(in_force(await self._users.disable(the_caller(), parse_user_name(request.name)), context))

    async def EnableUser(self, request: pb.EnableUserRequest, context: Context) -> user_pb2.User:
        return _from_user(await self._users.enable(the_caller(), parse_user_name(request.name)))

    async def SetPassword(self, request: pb.SetPasswordRequest, context: Context) -> user_pb2.User:
        done = await self._users.set_password(
            the_caller(), parse_user_name(request.name), new=request.new_password, old=request.old_password
        )
        return _from_user(in_force(done, context))

    async def CreateAccessProfile(
        self, request: pb.CreateAccessProfileRequest, context: Context
    ) -> access_profile_pb2.AccessProfile:
        profile = await self._profiles.create(
            the_caller(),
            request.access_profile_id,
            description=request.access_profile.description,
            grants=to_grants(request.access_profile.grants, "access_profile.grants"),
        )
        return _from_profile(profile)

    async def GetAccessProfile(
        self, request: pb.GetAccessProfileRequest, context: Context
    ) -> access_profile_pb2.AccessProfile:
        return _from_profile(await self._profiles.get(the_caller(), parse_access_profile_name(request.name)))

    async def ListAccessProfiles(
        self, request: pb.ListAccessProfilesRequest, context: Context
    ) -> pb.ListAccessProfilesResponse:
        wanted = PageRequest(request.page_size, request.page_token, list_hash("access_profiles"))
        page = await self._profiles.list(the_caller(), wanted)
        return pb.ListAccessProfilesResponse(
            access_profiles=map(_from_profile, page.items), next_page_token=page.next_token
        )

    async def UpdateAccessProfile(
        self, request: pb.UpdateAccessProfileRequest, context: Context
    ) -> access_profile_pb2.AccessProfile:
        sent = request.access_profile
        profile_id = parse_access_profile_name(sent.name, "access_profile.name")
        changes = masked(request.update_mask, ("description", "grants"), sent)
        updated = await self._profiles.update(
            the_caller(),
            profile_id,
            description=sent.description if "description" in changes else None,
            grants=to_grants(sent.grants, "access_profile.grants") if "grants" in changes else None,
        )
        return _from_profile(in_force(updated, context))

    async def DeleteAccessProfile(self, request: pb.DeleteAccessProfileRequest, context: Context) -> Empty:
        await self._profiles.delete(the_caller(), parse_access_profile_name(request.name))
        return Empty()


def _profile_ids(names: Iterable[str]) -> list[str]:
    return [parse_access_profile_name(name, f"user.access_profiles.{index}") for index, name in enumerate(names)]


def _from_user(user: User) -> user_pb2.User:
    return user_pb2.User(
        name=user_name(user.id),
        display_name=user.display_name,
        state=_USER_STATES.to_proto(user.state),
        access_profiles=map(access_profile_name, user.profile_ids),
        has_password=user.has_password,
        create_time=to_timestamp(user.create_time),
        update_time=to_timestamp(user.update_time),
        disable_time=to_timestamp(user.disable_time),
    )


def _from_profile(profile: AccessProfile) -> access_profile_pb2.AccessProfile:
    return access_profile_pb2.AccessProfile(
        name=access_profile_name(profile.id),
        description=profile.description,
        grants=map(from_grant, profile.grants),
        built_in=profile.built_in,
        create_time=to_timestamp(profile.create_time),
        update_time=to_timestamp(profile.update_time),
    )
