"""Certificates with server names: for relying parties, which are servers themselves."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import InvalidArgument, PermissionDenied
from tests.rpc.certificate_harness import TRUST_DOMAIN, beside, counts, pem, refusal, signing_request
from tests.support.installation import Installation
from tests.support.outside_ca import uri

pytestmark = pytest.mark.asyncio(loop_scope="module")


def request(user_id: str, *names: str, **fields: Any) -> pb.IssueCertificateRequest:
    return pb.IssueCertificateRequest(
        user=f"users/{user_id}", csr_pem=pem(signing_request()), server_names=names, **fields
    )


async def test_a_relying_party_is_a_server_too(installation: Installation) -> None:
    server = await installation.new_user("relying-party")
    issued = await installation.admin.certificates.IssueCertificate(
        request(server, "Orders.Example.org", "192.0.2.7", "2001:db8::7")
    )
    leaf = x509.load_pem_x509_certificates(issued.certificate.pem.encode())[0]
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        uri(f"spiffe://{TRUST_DOMAIN}/user/{server}"),
        x509.DNSName("orders.example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
    ]


async def test_without_names_it_is_no_server(installation: Installation) -> None:
    leaf = (await installation.issue(await installation.new_user("relying-party"))).leaf
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]


async def test_names_are_for_relying_parties_only(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    async with beside(installation) as database:
        before = await counts(database)
        error = await refusal(
            installation.admin.certificates.IssueCertificate(request(alice, "localhost")),
            InvalidArgument,
            "FIELD_INVALID",
        )
        assert await counts(database) == before
    assert [violation.field for violation in error.violations] == ["server_names"]


async def test_names_need_user_management(installation: Installation) -> None:
    """Else any relying party could pass for any server."""
    server = await installation.new_user("relying-party", "regular-user")
    async with installation.client(await installation.issue(server)) as client:
        await client.certificates.IssueCertificate(request(server))
        await refusal(
            client.certificates.IssueCertificate(request(server, "localhost")), PermissionDenied, "ACCESS_DENIED"
        )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*.example.org",
        "a b",
        "exämple.org",
        "example.org.",
        "-a.org",
        "a..b",
        "1.2.3",
        "x" * 64,
        "fe80::1%1",
        "a\0b",
    ],
)
async def test_names_that_are_none(installation: Installation, name: str) -> None:
    server = await installation.new_user("relying-party")
    error = await refusal(
        installation.admin.certificates.IssueCertificate(request(server, "good.example.org", name)),
        InvalidArgument,
        "FIELD_INVALID",
    )
    assert [violation.field for violation in error.violations] == ["server_names"]


async def test_at_most_twenty(installation: Installation) -> None:
    server = await installation.new_user("relying-party")
    names = [f"host-{index}.example.org" for index in range(21)]
    await installation.admin.certificates.IssueCertificate(request(server, *names[:20]))
    await refusal(
        installation.admin.certificates.IssueCertificate(request(server, *names)), InvalidArgument, "FIELD_INVALID"
    )
