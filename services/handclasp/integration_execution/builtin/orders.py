"""Adds up orders, without ever rounding."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from decimal import Context, Decimal, Inexact, localcontext
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from handclasp.authoring import integration

_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,12})?")

# 18 digits before the point, 10 of the quantity and as many for the count of lines, 12 after the point: every sum fits,
# and one that did not would raise rather than round.
_EXACT = Context(prec=60, traps=[*Context().traps, Inexact])


def _plain(value: Any) -> Any:
    if isinstance(value, str) and not _PLAIN_DECIMAL.fullmatch(value):
        raise ValueError("write a decimal such as 12.50: at most 18 digits before the point and 12 after it")
    return value


UnitPrice = Annotated[Decimal, BeforeValidator(_plain), Field(max_digits=30, decimal_places=12)]
Total = Annotated[Decimal, PlainSerializer(lambda total: format(total, "f"), return_type=str)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 alphabetic code, such as EUR")]


_LINES_AT_ONCE = 500


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OrderLine(_Strict):
    sku: str = Field(min_length=1, max_length=100)
    quantity: int = Field(ge=1, le=1_000_000_000)
    unit_price: UnitPrice = Field(
        description="As a string (always exact), or as a number (exact in `input_json`; in `input` the nearest double, "
        "by its shortest decimal form). Negative for a credit."
    )
    currency: Currency


class Order(_Strict):
    customer: str = Field(min_length=1, max_length=200)
    lines: list[OrderLine]


class Orders(_Strict):
    orders: list[Order]


class CustomerTotal(_Strict):
    customer: str
    currency: Currency
    total: Total = Field(description="Exact, with as many digits after the point as the prices had at most.")


class OrderSummary(_Strict):
    order_count: int
    line_count: int
    totals: list[CustomerTotal] = Field(description="By customer and then by currency.")


@integration(name="orders.summarize", version="1.0.0", timeout=30)
async def summarize(value: Orders) -> OrderSummary:
    """Adds up orders by customer and currency. Totals are exact decimals; nothing is rounded or converted."""
    sums: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    line_count = 0
    with localcontext(_EXACT):
        for order in value.orders:
            for line in order.lines:
                sums[order.customer, line.currency] += line.quantity * line.unit_price
                line_count += 1
                if line_count % _LINES_AT_ONCE == 0:
                    # Others have their turn: this runs in the server's event loop.
                    await asyncio.sleep(0)
    return OrderSummary(
        order_count=len(value.orders),
        line_count=line_count,
        totals=[
            CustomerTotal(customer=customer, currency=currency, total=total)
            for (customer, currency), total in sorted(sums.items())
        ],
    )
