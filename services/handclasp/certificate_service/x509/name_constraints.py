"""Name constraints (RFC 5280, section 4.2.1.10): which names a CA may vouch for.

Judged as gRPC's TLS stack does: DNS names, e-mail addresses, URIs and directory names are compared; a name of another
kind under a constraint of its kind, IP addresses among them, cannot be judged there and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from handclasp.certificate_service.x509.certificates import ComparableName, comparable, extension

# Names of one certificate times constraints of one CA. Far beyond what real CAs write, and a few milliseconds.
_MAX_COMPARISONS = 5_000


def name_constraints_fault(ca: x509.Certificate, below: x509.Certificate) -> str | None:
    """Whether a CA's constraints forbid a name of a certificate below it: the fault as half a sentence about that
    certificate, or None.

    The subject counts as a directory name. A certificate without subject alternative names is refused, as TLS stacks
    do: whether its common name stands for a host is anybody's guess.
    """
    constraints = extension(ca, x509.NameConstraints)
    if constraints is None:
        return None
    alternative = extension(below, x509.SubjectAlternativeName)
    is_ca = extension(below, x509.BasicConstraints)
    if alternative is None and not (is_ca is not None and is_ca.ca):
        return "has no subject alternative names, under a CA with name constraints"
    names: list[x509.GeneralName] = list(alternative or ())
    if below.subject:
        names.append(x509.DirectoryName(below.subject))
    permitted, excluded = _by_kind(constraints.permitted_subtrees), _by_kind(constraints.excluded_subtrees)
    comparisons = sum(len(permitted.get(type(name), ())) + len(excluded.get(type(name), ())) for name in names)
    if comparisons > _MAX_COMPARISONS:
        return "has too many names, for as many name constraints as its CA has"
    for name in names:
        fault = _fault(name, permitted.get(type(name), []), excluded.get(type(name), []))
        if fault is not None:
            return fault
    return None


def _by_kind(subtrees: Iterable[x509.GeneralName] | None) -> dict[type[x509.GeneralName], list[Any]]:
    found: dict[type[x509.GeneralName], list[Any]] = {}
    for item in subtrees or ():
        found.setdefault(type(item), []).append(_value(item))
    return found


def _value(name: x509.GeneralName) -> Any:
    return comparable(name.value) if isinstance(name, x509.DirectoryName) else name.value


def _fault(name: x509.GeneralName, permitted: Sequence[Any], excluded: Sequence[Any]) -> str | None:
    kind, value = type(name).__name__, _value(name)
    if not permitted and not excluded:
        return None
    matches = _MATCHERS.get(type(name))
    if matches is None:
        return f"has a name of a kind ({kind}) whose name constraints TLS stacks cannot judge"
    try:
        if any(matches(value, base) for base in excluded):
            return f"has a name ({kind}) that its CA's name constraints exclude"
        if permitted and not any(matches(value, base) for base in permitted):
            return f"has a name ({kind}) outside of what its CA's name constraints permit"
    except ValueError:
        return f"has a name ({kind}) that cannot be held against its CA's name constraints"
    return None


def _dns_matches(name: str, base: str) -> bool:
    # A leading dot, which RFC 5280 has for URIs only, asks for at least one more label.
    name, base = name.lower(), base.lower()
    return not base or name == base or name.endswith(base if base.startswith(".") else f".{base}")


def _email_matches(name: str, base: str) -> bool:
    _, at, host = name.rpartition("@")
    if not at or not host:
        raise ValueError(name)
    if "@" in base:
        local, _, base_host = base.rpartition("@")
        return name.rpartition("@")[0] == local and host.lower() == base_host.lower()
    return _host_matches(host, base)


def _uri_matches(name: str, base: str) -> bool:
    host = urlsplit(name).hostname
    # RFC 5280 has no answer for URIs without a host name: they must not be accepted.
    if not host or "@" in urlsplit(name).netloc:
        raise ValueError(name)
    return _host_matches(host, base)


def _host_matches(host: str, base: str) -> bool:
    host, base = host.lower(), base.lower()
    return host.endswith(base) if base.startswith(".") else host == base


def _directory_matches(name: ComparableName, base: ComparableName) -> bool:
    return name[: len(base)] == base


_MATCHERS: dict[type[x509.GeneralName], Callable[[Any, Any], bool]] = {
    x509.DNSName: _dns_matches,
    x509.RFC822Name: _email_matches,
    x509.UniformResourceIdentifier: _uri_matches,
    x509.DirectoryName: _directory_matches,
}
