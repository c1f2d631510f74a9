"""Getting a first certificate with an enrollment token, from a machine that holds none."""

from __future__ import annotations

from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.certificates.v1.certificate_service_pb2 import EnrollReplicaRequest, EnrollReplicaResponse, EnrollRequest
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.client.channels import open_channel
from handclasp.client.credentials import TlsMaterial
from handclasp.client.retries import repeat_if_lost


async def enroll(address: str, authority_pem: bytes, token: str, csr_pem: bytes) -> Certificate:
    """Has the certificate issued that a token is good for; repeated if the answer is lost, which is safe with one key.

    Args:
        address: `host:port` of the certificate service's one-way TLS listener.
        authority_pem: the CA that the server must be under, such as `fetch_authority` returns. Whoever sits in
            between would use the token for themselves.
        csr_pem: for the key that stays here.

    Raises:
        HandclaspError: as CertificateService.Enroll. After reason CONNECTION_LOST or DEADLINE_EXCEEDED a certificate
            may have been issued; the same token gives it again for the same key.
    """
    request = EnrollRequest(token=token, csr_pem=csr_pem.decode())
    async with open_channel(address, TlsMaterial(authority_pem)) as channel:
        return await repeat_if_lost(lambda: CertificateServiceStub(channel).Enroll(request))


async def enroll_replica(address: str, authority_pem: bytes, token: str, csr_pem: bytes) -> EnrollReplicaResponse:
    """Has a key certified as that of a CA, for another replica of the service. Arguments and errors as of `enroll`."""
    request = EnrollReplicaRequest(token=token, csr_pem=csr_pem.decode())
    async with open_channel(address, TlsMaterial(authority_pem)) as channel:
        return await repeat_if_lost(lambda: CertificateServiceStub(channel).EnrollReplica(request))
