"""Keeps the CA certificates that clients of this server may chain to like those of the certificate service."""

from __future__ import annotations

import asyncio

import grpc
import structlog

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.serving.tls import ReloadingCredentials, TlsIdentity, TlsMaterialError, compose_roots

FIRST_RETRY = 0.2
LAST_RETRY = 5.0
"""Seconds between attempts at start: doubled from the first to the last."""

_LOG = structlog.stdlib.get_logger(__name__)


class TrustBundleReader:
    """Reads the trust bundle over a channel to the certificate service.

    Args:
        channel: over mTLS; the trust anchors are in the bundle only for holders of AUTHORIZE_PEERS.
        timeout: in seconds, for one reading.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        self._stub = CertificateServiceStub(channel)
        self._timeout = timeout

    async def read(self) -> bytes:
        """The bundle as PEM: the service's own CAs first, then the trust anchors.

        A trust anchor that cannot be used is left out, and logged: one bad anchor must not keep the removal of another
        from taking effect.

        Raises:
            grpc.aio.AioRpcError: the service could not be asked.
            TlsMaterialError: the service's own CAs cannot be used.
        """
        bundle = await self._stub.GetTrustBundle(messages.GetTrustBundleRequest(), timeout=self._timeout)
        roots = [compose_roots(bundle.authorities)]
        for anchor in bundle.trust_anchors:
            try:
                roots.append(compose_roots([anchor]))
            except TlsMaterialError as error:
                _LOG.error("trust_anchor_left_out", fault=str(error), hint="remove it at the certificate service")
        return compose_roots(roots)

    async def read_at_start(self) -> bytes:
        """The same, tried until it works."""
        delay = FIRST_RETRY
        while True:
            try:
                return await self.read()
            except (grpc.aio.AioRpcError, TlsMaterialError) as error:
                _LOG.warning(
                    "trust_bundle_not_read_yet",
                    fault=_fault(error),
                    retry_in=delay,
                    hint="check that the certificate service runs at `certificate_service`, and that `identity_cert` "
                    "and `ca_file` are from it",
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)


class TrustReloader:
    """Reads the bundle at intervals and swaps it into a listener's credentials if it changed.

    Args:
        reader: where from.
        credentials: where to.
        identity: the listener's own, which stays.
        roots_pem: what the credentials were made with.
        interval: in seconds, between readings.
    """

    def __init__(
        self,
        reader: TrustBundleReader,
        credentials: ReloadingCredentials,
        identity: TlsIdentity,
        roots_pem: bytes,
        *,
        interval: float,
    ) -> None:
        self._reader = reader
        self._credentials = credentials
        self._identity = identity
        self._roots_pem = roots_pem
        self._interval = interval
        self.fault: str | None = None
        """Why the last reading failed; None if it did not. What was read before stays in force."""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.reload()

    async def reload(self) -> None:
        """Reads once, and swaps if something changed."""
        try:
            roots_pem = await self._reader.read()
            if roots_pem != self._roots_pem:
                self._credentials.replace(self._identity, roots_pem)
                self._roots_pem = roots_pem
                _LOG.info("trust_bundle_replaced", certificates=roots_pem.count(b"-----BEGIN CERTIFICATE-----"))
        except (grpc.aio.AioRpcError, TlsMaterialError) as error:
            fault = _fault(error)
            if self.fault is None:
                _LOG.warning("trust_bundle_not_read", fault=fault, hint="the last one stays in force")
            self.fault = fault
        else:
            if self.fault is not None:
                _LOG.info("trust_bundle_read_again")
            self.fault = None


def _fault(error: grpc.aio.AioRpcError | TlsMaterialError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
