"""The connection to the certificate service. It can be replaced while calls are made over it."""

from __future__ import annotations

import asyncio

import grpc

from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.serving.tls import TlsIdentity

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A proxy that the environment names for the web knows nothing of addresses in here.
    ("grpc.enable_http_proxy", 0),
    # Each channel has a connection of its own; by default an old channel's would be taken over, dead or not.
    ("grpc.use_local_subchannel_pool", 1),
    # After an outage a relying party must be back soon; by default gRPC waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A service that vanished without a word is noticed while questions to it are open.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class Link:
    """A channel to the certificate service over mutual TLS, and the stubs on it.

    Args:
        address: `host:port` of the certificate service's mutual TLS listener.
        ca_pem: the CAs that its certificate may chain to, checked before.
        identity: presented to it; of a user who holds AUTHORIZE_PEERS.
        closing_grace: how many seconds calls on a replaced channel may go on.
    """

    def __init__(self, address: str, ca_pem: bytes, identity: TlsIdentity, *, closing_grace: float = 10.0) -> None:
        self._address = address
        self._ca_pem = ca_pem
        self._closing_grace = closing_grace
        self._closing: set[asyncio.Task[None]] = set()
        self.identity = identity
        self._take(self._open(identity))

    def reconnect(self) -> None:
        """Gives the connection up for another one: nothing comes over it any more."""
        self._replace(self._open(self.identity))

    async def use(self, identity: TlsIdentity, *, timeout: float) -> None:
        """Goes over to another identity, once there is a connection with it.

        Raises:
            TimeoutError: there is none after that many seconds; then all stays as it was.
        """
        channel = self._open(identity)
        try:
            async with asyncio.timeout(timeout):
                await channel.channel_ready()
        except BaseException:
            await channel.close()
            raise
        self.identity = identity
        self._replace(channel)

    async def close(self) -> None:
        """Closes the connection. Calls in progress are cancelled."""
        for task in self._closing:
            task.cancel()
        await self._channel.close()

    def _open(self, identity: TlsIdentity) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self._ca_pem, identity.key_pem, identity.chain_pem)
        return grpc.aio.secure_channel(self._address, credentials, options=_OPTIONS)

    def _replace(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(self._channel.close(self._closing_grace), name="close replaced channel")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._take(channel)

    def _take(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.certificates = CertificateServiceStub(channel)
        self.authorization = AuthorizationServiceStub(channel)
