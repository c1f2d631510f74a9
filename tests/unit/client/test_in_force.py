"""Calls that wait until something is in force: which they are, and how long a client waits for them."""

from __future__ import annotations

import inspect
import re
from types import FunctionType

import pytest

from handclasp.accounts.v1.account_service_pb2 import DisableUserRequest, GetUserRequest
from handclasp.certificate_service.rpc.account_service import AccountService
from handclasp.certificate_service.rpc.certificate_service import CertificateService
from handclasp.certificate_service.watching.leases import waited
from handclasp.certificates.v1.certificate_service_pb2 import RevokeCertificateRequest
from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import TlsMaterial
from handclasp.client.in_force import LONGEST_LEASE, LONGEST_WAIT, WAITING
from tests.unit.client.small_service import Small, serving


def test_they_are_those_that_say_so_in_their_trailers() -> None:
    methods = {
        name: method
        for service in (AccountService, CertificateService)
        for name, method in vars(service).items()
        if isinstance(method, FunctionType) and name[0].isupper()
    }
    assert {
        name for name, method in methods.items() if re.search(r"\bin_force\(", inspect.getsource(method))
    } == WAITING


def test_the_longest_lease_is_covered() -> None:
    assert waited(LONGEST_LEASE) < LONGEST_WAIT


@pytest.mark.parametrize("addresses", [1, 2])
async def test_they_have_longer_than_others(addresses: int) -> None:
    async with serving(Small()) as small:
        tls = TlsMaterial(small.root.pem.encode())
        async with HandclaspClient(tls=tls, certificates=",".join([small.tls, "localhost:1"][:addresses])) as client:
            await client.certificates.RevokeCertificate(RevokeCertificateRequest(name="certificates/c1"))
            await client.accounts.DisableUser(DisableUserRequest(name="users/bob"))
            await client.accounts.DisableUser(DisableUserRequest(name="users/bob"), timeout=5)
            await client.accounts.GetUser(GetUserRequest(name="users/bob"))
    revoked, disabled, hurried, read = (seen.seconds for seen in small.seen)
    assert min(revoked, disabled) > LONGEST_WAIT
    assert hurried < 6
    assert read < 31
