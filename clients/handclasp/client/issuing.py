"""Issuing a certificate so that key and certificate end up together."""

from __future__ import annotations

import asyncio
import uuid

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import Curve, KeyAndRequest, make_key_and_request
from handclasp.client.names import USERS, resource_id
from handclasp.client.retries import repeat_if_lost


async def issue(
    client: HandclaspClient, request: messages.IssueCertificateRequest
) -> messages.IssueCertificateResponse:
    """Issues a certificate; repeated if the answer is lost, which `request_id` (set here if empty) makes safe.

    Raises:
        HandclaspError: as CertificateService.IssueCertificate. After reason CONNECTION_LOST or DEADLINE_EXCEEDED a
            certificate may have been issued.
    """
    request.request_id = request.request_id or str(uuid.uuid4())
    return await repeat_if_lost(lambda: client.certificates.IssueCertificate(request))


async def issue_with_local_key(
    client: HandclaspClient, request: messages.IssueCertificateRequest, curve: Curve = "p256"
) -> tuple[KeyAndRequest, messages.IssueCertificateResponse]:
    """Makes a key here and has a certificate issued for it. `request` says everything but the key.

    Raises:
        HandclaspError: as `issue`.
    """
    made = await asyncio.to_thread(make_key_and_request, resource_id(request.user) or USERS, curve)
    request.csr_pem = made.csr_pem.decode()
    return made, await issue(client, request)
