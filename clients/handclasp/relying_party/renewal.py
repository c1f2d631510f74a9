"""Renews a relying party's own certificate while it runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import grpc
import structlog
from cryptography import x509

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.csr import KeyAndRequest, make_key_and_request
from handclasp.client.renewing import PRESENTED
from handclasp.relying_party.faults import ConnectionReplacedError, described, unless_replaced
from handclasp.relying_party.identity_files import FilesHeldError, IdentityFiles
from handclasp.relying_party.link import Link
from handclasp.relying_party.trust import TrustFollower
from handclasp.relying_party.watch import Watch
from handclasp.serving.clock import Clock
from handclasp.serving.files import SecretFileError
from handclasp.serving.tls import TlsIdentity, TlsMaterialError

CHECK_INTERVAL = 60.0
"""Seconds between looks at the wall clock. A timer until the day itself would stand still with a suspended machine."""

FIRST_RETRY = 10.0
LAST_RETRY = 3600.0
"""Seconds between attempts to renew: doubled from the first to the last."""

HELD_RETRY = 2.0
"""Seconds until the files are looked at again that another process of the same server replaces just now."""

_SHORTEST_PAUSE = 1.0  # seconds after a renewal

_MAY_COME_RIGHT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    }
)

T = TypeVar("T")

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """When to renew. Times are in seconds.

    Args:
        share_of_life: after which share of the certificate's life.
        check_interval: between looks at the wall clock.
        first_retry, last_retry: between attempts.
    """

    share_of_life: float = 2 / 3
    check_interval: float = CHECK_INTERVAL
    first_retry: float = FIRST_RETRY
    last_retry: float = LAST_RETRY


class IdentityRenewal:
    """Renews the certificate, writes it to disk, and has it used at both ends without a call failing.

    Args:
        files: where the identity is kept. If it cannot be written, it is used all the same.
        timeout: in seconds, for one call.
    """

    def __init__(
        self,
        link: Link,
        trust: TrustFollower,
        watch: Watch,
        files: IdentityFiles,
        *,
        wall_clock: Clock,
        times: RenewalTimes,
        timeout: float,
    ) -> None:
        self._link = link
        self._trust = trust
        self._watch = watch
        self._files = files
        self._wall_clock = wall_clock
        self._times = times
        self._timeout = timeout
        self._identity = link.identity
        self._open: tuple[KeyAndRequest, str] | None = None
        """A request whose answer was lost, with its id: asked again, it gets the same certificate."""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        delay = self._times.first_retry
        while True:
            if not self._is_due(self._identity):
                delay = self._times.first_retry
                await asyncio.sleep(self._times.check_interval)
                continue
            try:
                await self.renew()
            except FilesHeldError:
                # Another process of this server does it; what it gets is found here next time.
                await asyncio.sleep(min(self._times.check_interval, HELD_RETRY))
            except (grpc.aio.AioRpcError, ConnectionReplacedError, TlsMaterialError) as error:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() not in _MAY_COME_RIGHT:
                    self._open = None
                # Several more times, however little is left: once it has expired, nothing renews it.
                left = self._remaining()
                pause = min(delay, max(left / 3, self._times.first_retry)) if left > 0 else delay
                _LOG.warning("identity_not_renewed", fault=described(error), expires=self._expiry(), retry_in=pause)
                await asyncio.sleep(pause)
                delay = min(2 * delay, self._times.last_retry)
            else:
                delay = self._times.first_retry
                # The validity begins a while before the issuing, so one that lives for minutes is due at once.
                await asyncio.sleep(min(self._times.check_interval, max(self._remaining() / 3, _SHORTEST_PAUSE)))

    async def renew(self) -> None:
        """Renews once, whether it is due or not; or takes what another process of this server has renewed.

        Raises:
            FilesHeldError: another one is about to.
            grpc.aio.AioRpcError, ConnectionReplacedError: the service refused, or could not be asked.
            TlsMaterialError: what it issued cannot work.
        """
        with self._files.held():
            identity = await self._of_another_process()
            if identity is None:
                identity = await self._renewed()
                await self._write(identity)
        await self._trust.use(identity)
        self._identity = identity
        await self._switch(identity)
        _LOG.info("identity_renewed", expires=self._expiry())

    async def _write(self, identity: TlsIdentity) -> None:
        try:
            await _to_its_end(partial(self._files.replace, identity))
        except OSError as error:
            _LOG.warning(
                "identity_not_written",
                fault=str(error),
                hint="it is used, but only until the next start; let this server write its identity's files",
            )

    async def _of_another_process(self) -> TlsIdentity | None:
        """What is in the files, if that is another certificate than this process's, and not due itself."""
        try:
            found = await _to_its_end(self._files.read_held)
        except (OSError, SecretFileError, TlsMaterialError) as error:
            _LOG.warning("identity_not_read", fault=str(error))
            return None
        return None if _leaf(found) == _leaf(self._identity) or self._is_due(found) else found

    async def _renewed(self) -> TlsIdentity:
        if self._open is None:
            self._open = (await asyncio.to_thread(make_key_and_request), str(uuid.uuid4()))
        made, request_id = self._open
        request = messages.RenewCertificateRequest(name=PRESENTED, csr_pem=made.csr_pem.decode(), request_id=request_id)
        renewed = await unless_replaced(self._link.certificates.RenewCertificate(request, timeout=self._timeout))
        self._open = None
        identity = TlsIdentity(made.key_pem, renewed.pem.encode())
        identity.check()
        return identity

    async def _switch(self, identity: TlsIdentity) -> None:
        """Goes over to a connection with the new identity, as soon as there is one. The old one works meanwhile."""
        while True:
            try:
                await self._link.use(identity, timeout=self._timeout)
            except TimeoutError:
                _LOG.warning("identity_not_in_use_yet", retry_in=self._times.first_retry)
                await asyncio.sleep(self._times.first_retry)
            else:
                self._watch.restart()
                return

    def _is_due(self, identity: TlsIdentity) -> bool:
        leaf = _leaf(identity)
        begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return self._wall_clock() >= begin + (end - begin) * self._times.share_of_life

    def _remaining(self) -> float:
        return _leaf(self._identity).not_valid_after_utc.timestamp() - self._wall_clock()

    def _expiry(self) -> str:
        return _leaf(self._identity).not_valid_after_utc.isoformat()


async def _to_its_end(work: Callable[[], T]) -> T:
    """Does work on the files in a thread. Whoever is cancelled meanwhile goes on only after it, and so lets go of the
    files only then: another process would take what is half written for what a crash has left."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        running.exception()  # Looked at: nobody is there to be told.
        raise


def _leaf(identity: TlsIdentity) -> x509.Certificate:
    return x509.load_pem_x509_certificates(identity.chain_pem)[0]
