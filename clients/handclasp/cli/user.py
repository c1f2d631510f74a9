"""`handclasp user`: users."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from handclasp.accounts.v1 import account_service_pb2 as messages
from handclasp.accounts.v1.user_pb2 import User
from handclasp.cli.commands import command, group
from handclasp.cli.output import moment, print_details, print_json, print_line, print_table, to_json
from handclasp.cli.passwords import ask_password, given_password
from handclasp.cli.session import Session
from handclasp.cli.taking_away import in_force_json, print_in_force, take_away
from handclasp.cli.values import enum_name
from handclasp.client.in_force import InForce
from handclasp.client.names import ACCESS_PROFILES, USERS, resource_id, resource_name
from handclasp.client.paging import items
from handclasp.errors import PermissionDenied, Reason

app = group("Users: create, list, change, disable.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's id, such as alice.", show_default=False)]
DisplayName = Annotated[str | None, typer.Option("--display-name", help="For people.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")]


@command(app, "create", login=False)
async def create(
    session: Session,
    name: Name,
    *,
    profiles: Annotated[
        list[str] | None, typer.Option("--profile", metavar="P", help="An access profile to give; repeatable.")
    ] = None,
    display_name: DisplayName = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="The new user's password is in this file.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="The new user's password is the first line of standard input.")
    ] = False,
) -> None:
    """Create a user. To log in by password for this, put --as and --password-file before `user`."""
    password = given_password(password_file, password_stdin)
    request = messages.CreateUserRequest(
        user_id=resource_id(resource_name(USERS, name)),
        user=User(display_name=display_name or "", access_profiles=_profiles(profiles)),
        password=password or "",
    )
    async with session.client() as client:
        _show(session, await client.accounts.CreateUser(request))


@command(app, "list")
async def list_users(session: Session, limit: Limit = None) -> None:
    """List the users that you may see."""
    async with session.client() as client:
        request = messages.ListUsersRequest()
        users = [user async for user in items(client.accounts.ListUsers, request, lambda page: list(page.users), limit)]
    if session.as_json:
        print_json({"users": [to_json(user) for user in users]})
        return
    rows = [
        (
            resource_id(user.name),
            _state(user),
            ", ".join(resource_id(profile) for profile in user.access_profiles),
            "yes" if user.has_password else "no",
            user.display_name,
        )
        for user in users
    ]
    print_table(("USER", "STATE", "PROFILES", "PASSWORD", "DISPLAY NAME"), rows, "no users")


@command(app, "show")
async def show(session: Session, name: Name) -> None:
    """Show a user."""
    async with session.client() as client:
        _show(session, await client.accounts.GetUser(messages.GetUserRequest(name=resource_name(USERS, name))))


@command(app, "update")
async def update(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", metavar="P", help="The access profiles from now on, instead of all; repeatable."),
    ] = None,
    no_profiles: Annotated[bool, typer.Option("--no-profiles", help="Take all access profiles away.")] = False,
) -> None:
    """Change display name or access profiles."""
    if profiles and no_profiles:
        raise typer.BadParameter("give --profile or --no-profiles, not both")
    request = messages.UpdateUserRequest(user=User(name=resource_name(USERS, name)))
    if display_name is not None:
        request.user.display_name = display_name
        request.update_mask.paths.append("display_name")
    if profiles or no_profiles:
        request.user.access_profiles.extend(_profiles(profiles))
        request.update_mask.paths.append("access_profiles")
    if not request.update_mask.paths:
        raise typer.BadParameter("nothing to change; give --display-name, --profile or --no-profiles")
    async with session.client() as client:
        done = await take_away(lambda: client.accounts.UpdateUser(request))
    _show_taken(session, done, takes="access_profiles" in request.update_mask.paths)


@command(app, "disable")
async def disable(session: Session, name: Name) -> None:
    """Disable a user: nothing that the user tries is allowed from then on."""
    request = messages.DisableUserRequest(name=resource_name(USERS, name))
    async with session.client() as client:
        done = await take_away(lambda: client.accounts.DisableUser(request), repeat=True)
    _show_taken(session, done)


@command(app, "enable")
async def enable(session: Session, name: Name) -> None:
    """Make a disabled user active again."""
    async with session.client() as client:
        _show(session, await client.accounts.EnableUser(messages.EnableUserRequest(name=resource_name(USERS, name))))


@command(app, "set-password", login=False)
async def set_password(
    session: Session,
    name: Name,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="The new password is in this file.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="The new password is the first line of standard input.")
    ] = False,
    old_password_file: Annotated[
        Path | None,
        typer.Option("--old-password-file", metavar="FILE", help="One's own old password is in this file."),
    ] = None,
) -> None:
    """Set a password; asks at the terminal for what is not given. Without one, --password-file or --password-stdin is
    needed.

    Changing one's own needs the old one; when logged in with it, it is taken from there. To log in by password for
    this, put --as and --password-file before `user`.
    """
    password = given_password(password_file, password_stdin)
    old = given_password(old_password_file, False)
    if password is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask at; give --password-file or --password-stdin")
        password = ask_password(f"New password of {name}", confirm=True)
    request = messages.SetPasswordRequest(
        name=resource_name(USERS, name), new_password=password, old_password=old or ""
    )
    async with session.client() as client:
        if old is None and (login := client.basic) is not None and resource_name(USERS, login.username) == request.name:
            request.old_password = login.password
        try:
            done = await take_away(lambda: client.accounts.SetPassword(request))
        except PermissionDenied as error:
            if error.reason != Reason.OLD_PASSWORD_WRONG or request.old_password:
                raise
            if not sys.stdin.isatty():
                raise PermissionDenied(
                    error.reason,
                    "changing one's own password needs the old one, and none was given; give the old one with "
                    "--old-password-file",
                    metadata=error.metadata,
                ) from error
            request.old_password = ask_password("Old password")
            done = await take_away(lambda: client.accounts.SetPassword(request))
    if session.as_json:
        print_json(to_json(done.answer) | in_force_json(done))
        return
    print_line(f"The password of {done.answer.name} is set.")
    print_in_force(done)


def _profiles(given: list[str] | None) -> list[str]:
    return [resource_name(ACCESS_PROFILES, profile) for profile in given or ()]


def _state(user: User) -> str:
    return enum_name(User.State, user.state, "STATE_")


def _show(session: Session, user: User) -> None:
    if session.as_json:
        print_json(to_json(user))
    else:
        _print(user)


def _show_taken(session: Session, done: InForce[User], *, takes: bool = True) -> None:
    if session.as_json:
        print_json(to_json(done.answer) | in_force_json(done))
        return
    _print(done.answer)
    if takes:
        print_in_force(done)


def _print(user: User) -> None:
    print_details(
        user.name,
        (
            ("state", _state(user)),
            ("display name", user.display_name),
            ("profiles", ", ".join(resource_id(profile) for profile in user.access_profiles) or "none"),
            ("password", "set" if user.has_password else "none"),
            ("created", moment(user.create_time)),
            ("updated", moment(user.update_time)),
            ("disabled", moment(user.disable_time)),
        ),
    )
