from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from handclasp.certificate_service.x509.name_constraints import name_constraints_fault
from tests.support.outside_ca import OutsideCA, name, uri
from tests.unit.x509.refusals import NOW

DNS, EMAIL, DIRECTORY = x509.DNSName, x509.RFC822Name, x509.DirectoryName
NETWORK = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
ADDRESS = x509.IPAddress(ipaddress.ip_address("10.1.2.3"))
NUMBER = x509.RegisteredID(ObjectIdentifier("1.2.3"))


def fault(names: list[x509.GeneralName], *, permitted: object = None, excluded: object = None) -> str | None:
    constraints = x509.NameConstraints(
        [permitted] if isinstance(permitted, x509.GeneralName) else None,
        [excluded] if isinstance(excluded, x509.GeneralName) else None,
    )
    ca = OutsideCA(now=NOW, extensions=[(constraints, True)])
    return name_constraints_fault(ca.certificate, ca.issue(alternative=names).certificate)


@pytest.mark.parametrize(
    ("present", "constraint"),
    [
        (DNS("a.example"), DNS("a.example")),
        (DNS("x.A.example"), DNS("a.EXAMPLE")),
        (DNS("x.a.example"), DNS(".a.example")),
        (DNS("a.example"), DNS("")),
        (EMAIL("me@a.example"), EMAIL("a.EXAMPLE")),
        (EMAIL("me@x.a.example"), EMAIL(".a.example")),
        (EMAIL("me@a.example"), EMAIL("me@a.example")),
        (uri("https://a.example:99/x"), uri("a.example")),
        (uri("spiffe://x.a.example/user"), uri(".a.example")),
        (DIRECTORY(name("Unit  one")), DIRECTORY(name("unit One"))),
    ],
)
def test_what_a_constraint_covers(present: x509.GeneralName, constraint: x509.GeneralName) -> None:
    # The subject is a directory name as well, so a constraint on those is tried on it alone.
    if not isinstance(constraint, DIRECTORY):
        assert fault([present], permitted=constraint) is None
    assert fault([present], excluded=constraint) is not None


@pytest.mark.parametrize(
    ("present", "constraint"),
    [
        (DNS("a.example"), DNS("b.example")),
        (DNS("xa.example"), DNS("a.example")),
        (DNS("a.example"), DNS(".a.example")),
        (EMAIL("me@x.a.example"), EMAIL("a.example")),
        (EMAIL("Me@a.example"), EMAIL("me@a.example")),
        (EMAIL("me@b.example"), EMAIL("a.example")),
        (uri("https://x.a.example/"), uri("a.example")),
        (uri("https://a.example/"), uri(".a.example")),
        (DIRECTORY(name("two")), DIRECTORY(name("one"))),
    ],
)
def test_what_a_constraint_does_not_cover(present: x509.GeneralName, constraint: x509.GeneralName) -> None:
    assert fault([present], permitted=constraint) is not None
    assert fault([present], excluded=constraint) is None


@pytest.mark.parametrize("constraint", [DNS("b.example"), NETWORK, NUMBER, EMAIL("b.example")])
def test_constraints_on_other_kinds_of_name_do_not_matter(constraint: x509.GeneralName) -> None:
    assert fault([uri("https://a.example/")], permitted=constraint) is None


@pytest.mark.parametrize(
    ("present", "constraint"),
    [
        (ADDRESS, NETWORK),
        (NUMBER, NUMBER),
        (uri("urn:a:b"), uri("a.example")),
        (uri("https://b@a.example/"), uri("a.example")),
        (uri("https://[a/"), uri("a.example")),
        (EMAIL("nobody"), EMAIL("a.example")),
    ],
)
def test_what_cannot_be_judged_is_refused(present: x509.GeneralName, constraint: x509.GeneralName) -> None:
    assert fault([present], permitted=constraint) is not None
    assert fault([present], excluded=constraint) is not None


def test_the_subject_is_held_against_directory_constraints() -> None:
    assert fault([DNS("a.example")], permitted=DIRECTORY(name("partner"))) is None
    assert fault([DNS("a.example")], permitted=DIRECTORY(name("others"))) is not None


def test_a_leaf_without_alternative_names_is_refused() -> None:
    assert fault([], permitted=DNS("a.example")) == "has no subject alternative names, under a CA with name constraints"


def test_a_ca_below_needs_no_alternative_names() -> None:
    constraints = x509.NameConstraints([DNS("a.example")], None)
    ca = OutsideCA(now=NOW, extensions=[(constraints, True)])
    assert name_constraints_fault(ca.certificate, ca.intermediate().certificate) is None


def test_without_constraints_every_name_will_do() -> None:
    ca = OutsideCA(now=NOW)
    assert name_constraints_fault(ca.certificate, ca.issue().certificate) is None


def test_too_many_names_times_constraints_are_refused_without_comparing() -> None:
    constraints = x509.NameConstraints([DNS(f"{number}.example") for number in range(300)], None)
    ca = OutsideCA(now=NOW, extensions=[(constraints, True)])
    leaf = ca.issue(alternative=[DNS(f"x{number}.0.example") for number in range(100)])
    text = name_constraints_fault(ca.certificate, leaf.certificate)
    assert text is not None
    assert "too many" in text
