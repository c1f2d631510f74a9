"""The typed Python client of both services.

Start with `HandclaspClient`. The names here are imported when they are first used: gRPC takes a quarter of a second to
import, and not everything here needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handclasp.client.bootstrap import fetch_authority
    from handclasp.client.channels import open_channel
    from handclasp.client.client import HandclaspClient
    from handclasp.client.context import Context
    from handclasp.client.credentials import BasicCredentials, TlsMaterial
    from handclasp.client.issuing import issue_with_local_key
    from handclasp.client.paging import items
    from handclasp.client.renewing import renew

__all__ = [
    "BasicCredentials",
    "Context",
    "HandclaspClient",
    "TlsMaterial",
    "fetch_authority",
    "issue_with_local_key",
    "items",
    "open_channel",
    "renew",
]

_HOMES = {
    "BasicCredentials": "credentials",
    "Context": "context",
    "HandclaspClient": "client",
    "TlsMaterial": "credentials",
    "fetch_authority": "bootstrap",
    "issue_with_local_key": "issuing",
    "items": "paging",
    "open_channel": "channels",
    "renew": "renewing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
