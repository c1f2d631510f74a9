"""Renewing the certificate that one presents."""

from __future__ import annotations

import uuid

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client.client import HandclaspClient
from handclasp.client.names import CERTIFICATES, resource_name
from handclasp.client.retries import repeat_if_lost

PRESENTED = resource_name(CERTIFICATES, "-")
"""Stands for the certificate that the caller presents, whose name its holder may not be allowed to look up."""


async def renew(client: HandclaspClient, request: messages.RenewCertificateRequest) -> Certificate:
    """Renews a certificate; repeated if the answer is lost, which `request_id` (set here if empty) makes safe.

    Args:
        client: presents the certificate that is renewed.
        request: an empty `name` stands for the certificate that the client presents.

    Raises:
        HandclaspError: as CertificateService.RenewCertificate. After reason CONNECTION_LOST or DEADLINE_EXCEEDED a
            certificate may have been issued.
    """
    request.name = request.name or PRESENTED
    request.request_id = request.request_id or str(uuid.uuid4())
    return await repeat_if_lost(lambda: client.certificates.RenewCertificate(request))
