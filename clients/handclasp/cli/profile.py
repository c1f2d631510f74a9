"""`handclasp profile`: access profiles."""

from __future__ import annotations

from typing import Annotated

import typer

from handclasp.accounts.v1 import account_service_pb2 as messages
from handclasp.accounts.v1.access_profile_pb2 import AccessProfile
from handclasp.authorization.v1.permission_pb2 import Grant
from handclasp.cli.commands import command, group
from handclasp.cli.output import moment, print_details, print_json, print_line, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.taking_away import in_force_json, print_in_force, take_away
from handclasp.cli.values import grants, permission_name
from handclasp.client.names import ACCESS_PROFILES, resource_id, resource_name
from handclasp.client.paging import items

app = group("Access profiles: what users may do.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The profile's id, such as order-clerk.", show_default=False)]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]
Grants = Annotated[
    list[str] | None,
    typer.Option(
        "--grant",
        metavar="PERMISSION[=PATTERN]",
        help="A permission, and the resources it reaches: EXECUTE_INTEGRATIONS=integrations/orders.*; repeatable.",
    ),
]


@command(app, "create")
async def create(session: Session, name: Name, grant: Grants = None, description: Description = None) -> None:
    """Create an access profile."""
    request = messages.CreateAccessProfileRequest(
        access_profile_id=resource_id(resource_name(ACCESS_PROFILES, name)),
        access_profile=AccessProfile(description=description or "", grants=grants(grant or ())),
    )
    async with session.client() as client:
        _show(session, await client.accounts.CreateAccessProfile(request))


@command(app, "list")
async def list_profiles(
    session: Session, limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")] = None
) -> None:
    """List the access profiles that you may see."""
    async with session.client() as client:
        request = messages.ListAccessProfilesRequest()
        found = items(client.accounts.ListAccessProfiles, request, lambda page: list(page.access_profiles), limit)
        profiles = [profile async for profile in found]
    if session.as_json:
        print_json({"access_profiles": [to_json(profile) for profile in profiles]})
        return
    rows = [
        (
            resource_id(profile.name),
            "yes" if profile.built_in else "no",
            "\n".join(_grant(grant) for grant in profile.grants),
            profile.description,
        )
        for profile in profiles
    ]
    print_table(("PROFILE", "BUILT IN", "GRANTS", "DESCRIPTION"), rows, "no access profiles")


@command(app, "show")
async def show(session: Session, name: Name) -> None:
    """Show an access profile."""
    request = messages.GetAccessProfileRequest(name=resource_name(ACCESS_PROFILES, name))
    async with session.client() as client:
        _show(session, await client.accounts.GetAccessProfile(request))


@command(app, "update")
async def update(
    session: Session,
    name: Name,
    grant: Grants = None,
    no_grants: Annotated[bool, typer.Option("--no-grants", help="Take all grants away.")] = False,
    description: Description = None,
) -> None:
    """Change grants (those given instead of all) or description, for everybody with the profile."""
    if grant and no_grants:
        raise typer.BadParameter("give --grant or --no-grants, not both")
    request = messages.UpdateAccessProfileRequest(
        access_profile=AccessProfile(name=resource_name(ACCESS_PROFILES, name))
    )
    if description is not None:
        request.access_profile.description = description
        request.update_mask.paths.append("description")
    if grant or no_grants:
        request.access_profile.grants.extend(grants(grant or ()))
        request.update_mask.paths.append("grants")
    if not request.update_mask.paths:
        raise typer.BadParameter("nothing to change; give --grant, --no-grants or --description")
    async with session.client() as client:
        done = await take_away(lambda: client.accounts.UpdateAccessProfile(request))
    if session.as_json:
        print_json(to_json(done.answer) | in_force_json(done))
        return
    _print(done.answer)
    if "grants" in request.update_mask.paths:
        print_in_force(done)


@command(app, "delete")
async def delete(session: Session, name: Name) -> None:
    """Delete an access profile that no user has."""
    request = messages.DeleteAccessProfileRequest(name=resource_name(ACCESS_PROFILES, name))
    async with session.client() as client:
        await client.accounts.DeleteAccessProfile(request)
    if session.as_json:
        print_json({"deleted": request.name})
    else:
        print_line(f"{request.name} is deleted.")


def _grant(grant: Grant) -> str:
    name = permission_name(grant.permission)
    return f"{name}={grant.resource_pattern}" if grant.resource_pattern else name


def _show(session: Session, profile: AccessProfile) -> None:
    if session.as_json:
        print_json(to_json(profile))
    else:
        _print(profile)


def _print(profile: AccessProfile) -> None:
    print_details(
        profile.name,
        (
            ("description", profile.description),
            ("built in", "yes" if profile.built_in else "no"),
            ("grants", "\n".join(_grant(grant) for grant in profile.grants) or "none"),
            ("created", moment(profile.create_time)),
            ("updated", moment(profile.update_time)),
        ),
    )
