"""What both listeners of the service show at the TLS handshake, and whom the mutual one lets in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog
from cryptography import x509

from handclasp.certificate_service.certificate_authority import Installation
from handclasp.certificate_service.use_cases.caller import Clock
from handclasp.certificate_service.use_cases.trust_bundle import TrustBundle
from handclasp.certificate_service.x509.issuing import (
    certificate_pem,
    generate_key,
    issue_server_certificate,
    key_to_pem,
)
from handclasp.serving.refused_handshakes import WatchedListener
from handclasp.serving.tls import ReloadingCredentials, TlsIdentity

_LOG = structlog.stdlib.get_logger(__name__)

_LOOK_SECONDS = 60.0


class ListenerCredentials:
    """Credentials of both listeners, kept up to date.

    The server certificate is made at each start and again at two thirds of its life; its key is only in memory.

    Args:
        names: DNS names and IP addresses that clients call the service by.
        read_bundle: reads whom the mutual TLS listener is to let in.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        names: Sequence[str],
        lifetime: timedelta,
        read_bundle: Callable[[], Awaitable[TrustBundle]],
        clock: Clock,
    ) -> None:
        self._installation = installation
        self._names = names
        self._lifetime = lifetime
        self._read_bundle = read_bundle
        self._clock = clock
        self._changing = asyncio.Lock()
        self._identity = self._new_identity()
        # Until the bundle is read, which has the CAs of other replicas, too.
        self._roots = certificate_pem(installation.root_certificate, installation.issuing.certificate).encode()
        self.one_way = ReloadingCredentials(self._identity, None)
        self.mutual = ReloadingCredentials(self._identity, self._roots)

    def watched(self, handshake_timeout: float) -> list[WatchedListener]:
        """Both listeners, for whoever is told of refused handshakes.

        Args:
            handshake_timeout: in seconds.
        """
        return [
            WatchedListener("certificates_tls", self.one_way, handshake_timeout),
            WatchedListener("certificates_mtls", self.mutual, handshake_timeout),
        ]

    async def reload_bundle(self) -> None:
        """Has the mutual TLS listener let in, from the next handshake on, whom the bundle says now."""
        # One after the other, each reading anew: else the older of two readings might be applied last.
        async with self._changing:
            bundle = await self._read_bundle()
            ders = (*bundle.authorities, *bundle.anchors)
            self._roots = certificate_pem(*map(x509.load_der_x509_certificate, ders)).encode()
            self.mutual.replace(self._identity, self._roots)

    async def keep_certificate_fresh(self) -> None:
        """Renews the server certificate at two thirds of its life, until cancelled."""
        while True:
            left = (self._renew_at - self._clock()).total_seconds()
            if left > 0:
                # By the clock on the wall: the event loop's stands still while the machine is suspended.
                await asyncio.sleep(min(left, _LOOK_SECONDS))
                continue
            self._identity = self._new_identity()
            self.one_way.replace(self._identity, None)
            # With the bundle as it was read last: a database that is down just now must not keep this from being done.
            self.mutual.replace(self._identity, self._roots)
            _LOG.info("server_certificate_renewed", names=list(self._names))

    def _new_identity(self) -> TlsIdentity:
        key = generate_key("EC P-256")
        issuing = self._installation.issuing
        now = self._clock()
        self._renew_at = now + self._lifetime * 2 / 3
        leaf = issue_server_certificate(
            issuing, names=self._names, public_key=key.public_key(), now=now, lifetime=self._lifetime
        )
        return TlsIdentity(key_to_pem(key, None), certificate_pem(leaf, issuing.certificate).encode())
