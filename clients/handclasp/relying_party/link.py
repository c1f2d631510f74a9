"""The connections to the certificate service, one for each of its addresses. They can be replaced while calls are made
over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import grpc

from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.client.balancing import balancing_options
from handclasp.client.failover import ROUNDS, FailoverChannel, Rotation, any_ready
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

_SHORT_ROUNDS = (0.1, 0.3)
"""Seconds before a question is repeated at the only address there is: behind it may be several processes, one of which
has just ended."""


class Link:
    """Channels to the certificate service over mutual TLS, and the stubs on them.

    Questions go to all addresses in turn, and to another one if one does not answer. The watch is at one address; which
    one is chosen at random at first, so that relying parties spread over them.

    Args:
        addresses: each `host:port` of a mutual TLS listener of the certificate service.
        ca_pem: the CAs that its certificates may chain to, checked before.
        identity: presented to it; of a user who holds AUTHORIZE_PEERS.
        closing_grace: how many seconds calls on a replaced channel may go on.

    Attributes:
        certificates: for questions. All that is asked over it may be asked twice.
        authorization: for the watch.
    """

    def __init__(
        self, addresses: Sequence[str], ca_pem: bytes, identity: TlsIdentity, *, closing_grace: float = 10.0
    ) -> None:
        self._addresses = random.sample(addresses, len(addresses))
        self._ca_pem = ca_pem
        self._closing_grace = closing_grace
        self._closing: set[asyncio.Task[None]] = set()
        self._watched = 0
        self._rotation = Rotation(len(addresses), spread=True)
        self.identity = identity
        self._take(self._open_all(identity))

    @property
    def size(self) -> int:
        """How many addresses there are."""
        return len(self._addresses)

    @property
    def watched(self) -> str:
        """The address of the watch."""
        return self._addresses[self._watched]

    def go_elsewhere(self) -> None:
        """The watch has ended; the next one is at the next address."""
        self._rotation.failed(self._watched)
        self._watched = (self._watched + 1) % self.size
        self.authorization = AuthorizationServiceStub(self._channels[self._watched])

    def reconnect(self) -> None:
        """Gives the connection of the watch up for another one: nothing comes over it any more.

        Questions that wait for an answer on it go to another address, if there is one.
        """
        channels = [*self._channels]
        replaced = channels[self._watched]
        channels[self._watched] = self._open(self.watched, self.identity)
        self._take(channels)
        self._close_later([replaced], self._closing_grace if self.size == 1 else None)

    async def use(self, identity: TlsIdentity, *, timeout: float) -> None:
        """Goes over to another identity, once there is a connection with it.

        Raises:
            TimeoutError: there is none after that many seconds; then all stays as it was.
        """
        channels = self._open_all(identity)
        try:
            async with asyncio.timeout(timeout):
                await any_ready(channels)
        except BaseException:
            await asyncio.gather(*(channel.close() for channel in channels))
            raise
        self.identity = identity
        replaced = self._channels
        self._take(channels)
        self._close_later(replaced, self._closing_grace)

    async def close(self) -> None:
        """Closes the connections. Calls in progress are cancelled."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def _open_all(self, identity: TlsIdentity) -> list[grpc.aio.Channel]:
        return [self._open(address, identity) for address in self._addresses]

    def _open(self, address: str, identity: TlsIdentity) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self._ca_pem, identity.key_pem, identity.chain_pem)
        options = [*_OPTIONS, *balancing_options(address)]
        return grpc.aio.secure_channel(address, credentials, options=options)

    def _close_later(self, channels: Sequence[grpc.aio.Channel], grace: float | None) -> None:
        for channel in channels:
            closing = asyncio.create_task(channel.close(grace), name="close replaced channel")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _take(self, channels: list[grpc.aio.Channel]) -> None:
        self._channels = channels
        questions = FailoverChannel(channels, self._rotation, rounds=ROUNDS if self.size > 1 else _SHORT_ROUNDS)
        self.certificates = CertificateServiceStub(questions)
        self.authorization = AuthorizationServiceStub(channels[self._watched])
