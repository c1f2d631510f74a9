"""Issues certificates and takes them away again, as the administrator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import TlsMaterial
from handclasp.client.csr import make_key_and_request
from handclasp.client.in_force import BarrierReport, in_force
from handclasp.client.names import USERS, resource_name
from tests.benchmarks.processes import CallFailedError
from tests.benchmarks.workload import Cast, Identity

_ISSUED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate of the user `caller`.

    Attributes:
        name: `certificates/{certificate}`.
    """

    name: str
    identity: Identity


class Registrar:
    """Of one service. All certificates are for one key, since making keys is not what is measured."""

    def __init__(self, client: HandclaspClient) -> None:
        self._client = client
        self._made = make_key_and_request("caller")

    @classmethod
    @asynccontextmanager
    async def connected(cls, cast: Cast, address: str) -> AsyncIterator[Registrar]:
        """One that calls the certificate service at that address, over mutual TLS."""
        tls = TlsMaterial(cast.ca_pem, cast.administrator.certificate_pem, cast.administrator.key_pem)
        async with HandclaspClient(tls=tls, certificates=address) as client:
            yield cls(client)

    async def issue(self) -> Issued:
        response = await self._client.certificates.IssueCertificate(
            messages.IssueCertificateRequest(
                user=resource_name(USERS, "caller"), csr_pem=self._made.csr_pem.decode("ascii")
            )
        )
        pem = response.certificate.pem.encode("ascii")
        return Issued(response.certificate.name, Identity(pem, self._made.key_pem))

    async def issue_many(self, count: int) -> Sequence[Issued]:
        issued: list[Issued] = []
        while len(issued) < count:
            some = min(_ISSUED_AT_ONCE, count - len(issued))
            issued += await asyncio.gather(*(self.issue() for _ in range(some)))
        return issued

    async def revoke(self, certificate: Issued) -> BarrierReport:
        """Returns when the call does.

        Raises:
            CallFailedError: the service does not say that it is in force.
        """
        call = self._client.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=certificate.name))
        barrier = (await in_force(call)).barrier
        if barrier is None:
            raise CallFailedError("RevokeCertificate says nothing of relying parties")
        return barrier
