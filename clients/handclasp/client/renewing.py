"""Renewing the certificate that one presents."""

from __future__ import annotations

import uuid

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client.client import HandclaspClient
from handclasp.client.names import CERTIFICATES, resource_name
from handclasp.client.retries import repeat_if_lost
from handclasp.errors import HandclaspError, PermissionDenied, Reason

NOBODYS = resource_name(CERTIFICATES, "0" * 26)
"""Looks like the name of a certificate, and is none: the first part of an id is the time when it was made."""


async def renew(client: HandclaspClient, request: messages.RenewCertificateRequest) -> Certificate:
    """Renews a certificate; repeated if the answer is lost, which `request_id` (set here if empty) makes safe.

    Args:
        client: presents the certificate that is renewed.
        request: an empty `name` stands for the certificate that the client presents.

    Raises:
        HandclaspError: as CertificateService.RenewCertificate. After reason CONNECTION_LOST or DEADLINE_EXCEEDED a
            certificate may have been issued.
    """
    request.name = request.name or await _presented(client, request)
    request.request_id = request.request_id or str(uuid.uuid4())
    return await repeat_if_lost(lambda: client.certificates.RenewCertificate(request))


async def _presented(client: HandclaspClient, request: messages.RenewCertificateRequest) -> str:
    """The name of the certificate that the client presents, which its holder may not be allowed to list.

    The service says it to whoever names another one.
    """
    other = messages.RenewCertificateRequest()
    other.CopyFrom(request)
    other.name, other.request_id = NOBODYS, ""

    async def ask() -> str:
        try:
            return (await client.certificates.RenewCertificate(other)).renewed_from
        except PermissionDenied as error:
            name = named_instead(error)
            if name is None:
                raise
            return name

    return await repeat_if_lost(ask)


def named_instead(error: HandclaspError) -> str | None:
    """The certificate that is presented, in the refusal of a renewal of another one."""
    return error.metadata.get("certificate") if error.reason == Reason.NOT_THE_HOLDER else None
