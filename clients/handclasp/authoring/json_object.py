"""JSON that is taken, and given, as it stands."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ExactFloat(float):
    """A JSON number with a fraction or an exponent, with its text. `str` gives the text, so `Decimal(str(x))` is exact.

    Fields of type `Decimal` take their value from the text, fields of type `float` the nearest double.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[ExactFloat], tuple[str]]:
        return ExactFloat, (self.text,)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class JsonObject(BaseModel):
    """Any JSON object. As output its members are given as they are, numbers digit for digit.

    As input, numbers with a fraction or an exponent are `ExactFloat` where the caller sent JSON text.
    """

    model_config = ConfigDict(extra="allow")

    @property
    def members(self) -> dict[str, Any]:
        """The members by name."""
        return self.model_extra or {}
