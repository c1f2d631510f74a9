"""Where a service is: `host:port`, or several of them with commas in between, at each of which the same is served."""

from __future__ import annotations

import ipaddress


def split_addresses(addresses: str) -> tuple[str, ...]:
    """Each `host:port` by itself."""
    return tuple(address.strip() for address in addresses.split(","))


def check_addresses(addresses: str) -> str | None:
    """What is wrong with one `host:port` or several, or None."""
    found = split_addresses(addresses)
    for address in found:
        if fault := check_address(address):
            return fault if len(found) == 1 else f"{fault}: {address!r}"
    if len(set(found)) < len(found):
        return "names an address more than once"
    return None


def check_address(address: str) -> str | None:
    """What is wrong with a `host:port`, or None. An IPv6 address stands in brackets: `[::1]:8443`."""
    if "://" in address:
        return "is to be host:port, such as 127.0.0.1:8443, without anything before the host"
    host, _, port = address.rpartition(":")
    bare = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bare) or any(c.isspace() or c in "/@," for c in host):
        return "is not host:port, such as 127.0.0.1:8443 or [::1]:8443"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return "has no port between 1 and 65535 at its end, such as 127.0.0.1:8443"
    return None


def is_loopback(address: str) -> bool:
    """Whether a `host:port` is on this machine."""
    ip = _ip_of(address)
    return _host_of(address) == "localhost" if ip is None else ip.is_loopback


def may_be_several(address: str) -> bool:
    """Whether a `host:port` has a name that may stand for several servers."""
    return _ip_of(address) is None and not is_loopback(address)


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _ip_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_host_of(address))
    except ValueError:
        return None
