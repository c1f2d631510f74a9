"""Option values in the form that people type them, as the API has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.authorization.v1.permission_pb2 import Grant, Permission
from handclasp.client.addresses import check_address, check_addresses
from handclasp.client.names import INTEGRATIONS, USERS

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION = re.compile(r"([0-9]{1,9})([dhms])")
_LONGEST = timedelta(days=36_500)
_PERMISSION = "PERMISSION_"


def host_and_port(given: str) -> str:
    """One `host:port`."""
    if fault := check_address(given):
        raise typer.BadParameter(f"{given!r} {fault}")
    return given


def hosts_and_ports(given: str) -> str:
    """One `host:port`, or several with commas in between."""
    if fault := check_addresses(given):
        raise typer.BadParameter(f"{given!r} {fault}")
    return given


def duration(given: str) -> timedelta:
    """`30d`, `12h`, `90m`, `45s`."""
    match = _DURATION.fullmatch(given)
    if match is None:
        raise typer.BadParameter(
            f"{given!r} is not a duration; write a whole number and d, h, m or s: 30d, 12h, 90m, 45s"
        )
    length = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if not timedelta() < length <= _LONGEST:
        raise typer.BadParameter(f"{given!r} is not between a second and {_LONGEST.days} days")
    return length


def moment(given: str) -> datetime:
    """`2026-01-31`, `2026-01-31T12:00:00Z` (UTC unless it says otherwise), or `30d` for thirty days from now."""
    if _DURATION.fullmatch(given):
        return datetime.now(UTC) + duration(given)
    try:
        parsed = datetime.fromisoformat(given)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{given!r} is not a time; write 2026-01-31, 2026-01-31T12:00:00Z, or 30d for thirty days from now"
        ) from error


def to_duration(given: timedelta) -> Duration:
    """As the API has it."""
    message = Duration()
    message.FromTimedelta(given)
    return message


def to_timestamp(given: datetime) -> Timestamp:
    """As the API has it."""
    message = Timestamp()
    message.FromDatetime(given)
    return message


def labels(given: Sequence[str]) -> dict[str, str]:
    """`key=value`s; a value may hold `=` and be empty."""
    found: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{item!r} is not a label; write key=value", param_hint="--label")
        if key in found:
            raise typer.BadParameter(f"the label {key!r} is given twice", param_hint="--label")
        found[key] = value
    return found


def grants(given: Sequence[str]) -> list[Grant]:
    """`PERMISSION` or `PERMISSION=RESOURCE_PATTERN`; the permission in any case, with `-` or `_`."""
    found = []
    for item in given:
        name, equals, pattern = item.partition("=")
        number = Permission.DESCRIPTOR.values_by_name.get(_PERMISSION + name.upper().replace("-", "_"))
        if number is None or number.number == 0:
            known = ", ".join(permission_names())
            raise typer.BadParameter(f"{name!r} is not a permission; there are {known}", param_hint="--grant")
        if equals and not pattern:
            raise typer.BadParameter(
                f"the resource pattern after {item!r} is empty; write one such as {INTEGRATIONS}/orders.* or "
                f"{USERS}/alice, or leave out the =",
                param_hint="--grant",
            )
        found.append(Grant(permission=Permission.ValueType(number.number), resource_pattern=pattern))
    return found


def permission_names() -> list[str]:
    """All permissions, as people write them."""
    return [permission_name(value) for value in Permission.values() if value != 0]


def permission_name(value: Permission.ValueType) -> str:
    """A permission as people write it: `USER_MANAGEMENT`. One that this version does not know, as its number."""
    return enum_name(Permission, value, _PERMISSION)


def enum_name(enum: type[object], value: int, prefix: str) -> str:
    """An enum value without its prefix; one that this version does not know, as its number."""
    found = enum.DESCRIPTOR.values_by_number.get(value)  # type: ignore[attr-defined]
    return str(value) if found is None else str(found.name).removeprefix(prefix)
