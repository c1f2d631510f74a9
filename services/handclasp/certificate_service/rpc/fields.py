"""Protobuf's common types to Python's and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.errors import invalid_field

E = TypeVar("E", bound=StrEnum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)


def to_datetime(timestamp: Timestamp, field: str) -> datetime:
    """Raises InvalidArgument if it is not a moment between the years 1 and 9999."""
    try:
        return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except OverflowError:
        raise invalid_field(field, "must be a moment between the years 1 and 9999") from None


def to_timedelta(duration: Duration, field: str) -> timedelta:
    """Raises InvalidArgument if it is out of range."""
    try:
        return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)
    except OverflowError:
        raise invalid_field(field, "must be a duration of less than 10,000 years") from None


class ProtoEnum(Protocol):
    """What protobuf's generated enums have."""

    def items(self) -> Sequence[tuple[str, Any]]: ...


class EnumTable(Generic[E]):
    """A proto enum and a domain enum with the same names, less the proto's prefix.

    Args:
        renamed: proto names, without prefix, that are called otherwise in the domain.
        unspecified: what the proto's zero stands for; None if it is refused.
    """

    def __init__(
        self,
        proto: ProtoEnum,
        prefix: str,
        domain: type[E],
        *,
        renamed: Mapping[str, E] | None = None,
        unspecified: E | None = None,
    ) -> None:
        renamed = renamed or {}
        self._domain: dict[int, E] = {}
        self._proto: dict[E, int] = {}
        for name, number in proto.items():
            short = name.removeprefix(prefix)
            if number:
                member = renamed[short] if short in renamed else domain(short)
                self._domain[number] = member
                self._proto[member] = number
        if unspecified is not None:
            self._domain[0] = unspecified

    def to_domain(self, number: int, field: str) -> E:
        """Raises InvalidArgument if the number is none of the enum's."""
        try:
            return self._domain[number]
        except KeyError:
            known = ", ".join(sorted(self._domain.values()))
            raise invalid_field(field, f"must be one of {known}") from None

    def to_proto(self, member: E) -> Any:
        return self._proto[member]


def masked(mask: FieldMask, allowed: Sequence[str], message: Any) -> frozenset[str]:
    """The fields of a message that are to be changed (https://google.aip.dev/134).

    Raises:
        InvalidArgument: the mask names a field that cannot be changed, or nothing is to be changed.
    """
    if "*" in mask.paths:
        return frozenset(allowed)
    if not mask.paths:
        named = {field.name for field, _ in message.ListFields()}.intersection(allowed)
        if not named:
            raise invalid_field("update_mask", f"says nothing to change; name one of {', '.join(allowed)}")
        return frozenset(named)
    unknown = sorted(set(mask.paths).difference(allowed))
    if unknown:
        raise invalid_field("update_mask", f"may only name {', '.join(allowed)}")
    return frozenset(mask.paths)
