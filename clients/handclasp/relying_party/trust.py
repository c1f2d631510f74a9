"""Keeps the CA certificates that clients of a server may chain to like those of the certificate service.

Anchors are changes like others, and are followed by them; so are the CAs of new replicas. Such a change is acknowledged
only once the next handshake heeds it: so when `AddTrustAnchor` or `RemoveTrustAnchor` has returned, it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import grpc
import structlog

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.relying_party.faults import ConnectionReplacedError, described, unless_replaced
from handclasp.relying_party.knowledge import Change, Knowledge, Position
from handclasp.relying_party.link import Link
from handclasp.relying_party.watch import Watch
from handclasp.serving.tls import ReloadingCredentials, TlsIdentity, TlsMaterialError, compose_roots

FIRST_RETRY = 0.2
LAST_RETRY = 5.0
"""Seconds between attempts to read the bundle: doubled from the first to the last."""

_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 5.0  # seconds that an acknowledgement waits
# What is in the bundle: outside CAs, and those of the certificate service's replicas.
_IN_THE_BUNDLE = ("trustAnchors/", "authorities/")

T = TypeVar("T")

_LOG = structlog.stdlib.get_logger(__name__)


class TrustFollower:
    """Follows the trust bundle, and has listeners use it.

    Args:
        identity: the listeners' own.
        timeout: in seconds, for one reading.
    """

    def __init__(
        self, link: Link, knowledge: Knowledge, watch: Watch, identity: TlsIdentity, *, timeout: float
    ) -> None:
        self._link = link
        self._knowledge = knowledge
        self._watch = watch
        self._identity = identity
        self._timeout = timeout
        self._roots_pem = b""
        self._listeners: list[ReloadingCredentials] = []
        self._replacing = asyncio.Lock()
        # Of its own: handlers may take all threads of the loop's, for as long as they like.
        self._thread = ThreadPoolExecutor(1, "trust-bundle")
        self._wanted = asyncio.Event()
        self._awaited = 0
        """The revision of the newest change of a CA."""
        self._resets = 0
        self._patience: asyncio.TimerHandle | None = None
        self.fault: str | None = None
        """Why the last reading failed; None if it did not. What was read before stays in force."""

    async def read_at_start(self) -> None:
        """Reads the bundle, as often as it takes."""
        await self._read_until_it_works("check that the certificate service runs there, and that CA and identity fit")

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one listener, which follow from now on."""
        made = ReloadingCredentials(self._identity, self._roots_pem)
        self._listeners.append(made)
        return made.credentials

    @property
    def listeners(self) -> Sequence[ReloadingCredentials]:
        """The credentials that follow."""
        return tuple(self._listeners)

    async def use(self, identity: TlsIdentity) -> None:
        """Has listeners present another identity from the next handshake on.

        Raises:
            TlsMaterialError: it cannot work; what is in force stays in force.
        """
        async with self._replacing:
            await self._replace(identity, self._roots_pem)

    def welcomed(self) -> None:
        """Whatever was missed is in the bundle."""
        self._wanted.set()

    def changed(self, position: Position, changes: Sequence[Change]) -> bool:
        """Reads the bundle if a CA of it changed, whichever way; the acknowledgement waits for it."""
        if not any(change.name.startswith(_IN_THE_BUNDLE) for change in changes):
            return False
        self._await(position.revision)
        return True

    def was_reset(self) -> bool:
        """Anchors may have changed; the acknowledgement waits until the bundle is read."""
        # Of a history that was lost there may be higher ones, which this one does not reach for long.
        self._awaited = 0
        self._resets += 1
        self._await(self._knowledge.revision)
        return True

    async def run(self) -> None:
        """Runs until it is cancelled."""
        try:
            await self._follow()
        finally:
            self._thread.shutdown(wait=False)

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            # A bundle that is read from here on has all that was applied by now.
            position, resets = self._knowledge.applied, self._resets
            await self._read_until_it_works("the last one stays in force")
            # After a reset meanwhile, or if one is due because the history was lost, the position may be one of another
            # history; then it is read once more.
            if position is None or resets != self._resets or self._knowledge.applied is None:
                continue
            all_of_it = self._awaited <= position.revision
            if all_of_it:
                self._stop_waiting()
            self._watch.covered(position, all_of_it=all_of_it)

    def _await(self, revision: int) -> None:
        self._awaited = max(self._awaited, revision)
        self._wanted.set()
        if self._patience is None:
            wait = min(max(self._watch.lease / 2, _SHORTEST_WAIT), _LONGEST_WAIT)
            self._patience = asyncio.get_running_loop().call_later(wait, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        _LOG.warning(
            "trust_bundle_late", hint="the change is acknowledged, and new handshakes heed it once the bundle is read"
        )
        self._watch.covered(None, all_of_it=True)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def _read_until_it_works(self, hint: str) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                bundle = await unless_replaced(
                    self._link.certificates.GetTrustBundle(messages.GetTrustBundleRequest(), timeout=self._timeout)
                )
                async with self._replacing:
                    # In a thread, since a thousand anchors take a while to parse.
                    roots_pem = await self._in_thread(_compose, bundle)
                    if roots_pem != self._roots_pem:
                        await self._replace(self._identity, roots_pem)
                        _LOG.info("trust_bundle_replaced", certificates=roots_pem.count(b"-----BEGIN CERTIFICATE-----"))
            except (grpc.aio.AioRpcError, ConnectionReplacedError, TlsMaterialError) as error:
                if self.fault is None:
                    _LOG.warning("trust_bundle_not_read", fault=described(error), hint=hint)
                self.fault = described(error)
            else:
                if self.fault is not None:
                    _LOG.info("trust_bundle_read_again")
                self.fault = None
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)

    async def _replace(self, identity: TlsIdentity, roots_pem: bytes) -> None:
        known = len(self._listeners)
        for listener in self._listeners[:known]:
            await self._in_thread(listener.replace, identity, roots_pem)
        self._identity, self._roots_pem = identity, roots_pem
        # One that was made meanwhile began with the old ones.
        for listener in self._listeners[known:]:
            listener.replace(identity, roots_pem)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        bound = partial(copy_context().run, work, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, bound)


def _compose(bundle: messages.TrustBundle) -> bytes:
    """The bundle as PEM: the service's own CAs first, then the trust anchors.

    An anchor that cannot be used is left out, and logged: one bad anchor must not keep the removal of another from
    taking effect.

    Raises:
        TlsMaterialError: the service's own CAs cannot be used.
    """
    roots = [compose_roots(bundle.authorities)]
    for anchor in bundle.trust_anchors:
        try:
            roots.append(compose_roots([anchor]))
        except TlsMaterialError as error:
            _LOG.error("trust_anchor_left_out", fault=str(error), hint="remove it at the certificate service")
    return compose_roots(roots)
