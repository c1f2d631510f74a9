"""All that a relying party takes, wired."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from handclasp.client.addresses import split_addresses
from handclasp.relying_party.asking import Asking
from handclasp.relying_party.authorizer import Authorizer
from handclasp.relying_party.calls import SWEEP_INTERVAL, CallsInProgress
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.decisions import MAX_DECISIONS, Decisions
from handclasp.relying_party.identity_files import IdentityFiles
from handclasp.relying_party.interceptor import AuthorizationInterceptor, Requirement
from handclasp.relying_party.knowledge import MAX_NAMES, Knowledge
from handclasp.relying_party.link import Link
from handclasp.relying_party.questions import Questions
from handclasp.relying_party.renewal import IdentityRenewal, RenewalTimes
from handclasp.relying_party.reporting import RefusalReports
from handclasp.relying_party.trust import TrustFollower
from handclasp.relying_party.watch import Watch
from handclasp.serving.call_budgets import DEFAULT_LIMITS, CallLimits
from handclasp.serving.clock import Clock, lease_clock, wall_clock
from handclasp.serving.interceptor import Translate
from handclasp.serving.tls import ReloadingCredentials, compose_roots

DECISION_TIMEOUT = 5.0
LEASE_WAIT = 1.0
LEASE_GRACE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be set of a relying party. Times are in seconds.

    Args:
        decision_timeout: for one question to the certificate service.
        lease_wait: how long a caller waits for a lease if there is none, before the answer is UNAVAILABLE.
        lease_grace: how long calls in progress go on without one.
        max_decisions: how many are remembered; 0 has each call ask.
        max_names: of how many names the last change is kept.
        renew_identity: whether the own certificate is renewed while the process runs, and its files replaced.
        renewal: when.
        lease_clock, wall_clock: for tests.
    """

    decision_timeout: float = DECISION_TIMEOUT
    lease_wait: float = LEASE_WAIT
    lease_grace: float = LEASE_GRACE
    max_decisions: int = MAX_DECISIONS
    max_names: int = MAX_NAMES
    renew_identity: bool = True
    renewal: RenewalTimes = field(default_factory=RenewalTimes)
    lease_clock: Clock = lease_clock
    wall_clock: Clock = wall_clock


class RelyingParty:
    """A server's side of "revocation is a barrier": it decides for its peers, from memory while it holds a lease.

        async with RelyingParty("localhost:8444", ca_file=..., certificate=..., key=...) as relying_party:
            server = grpc.aio.server(interceptors=[relying_party.interceptor({...})])
            server.add_secure_port("0.0.0.0:9443", relying_party.server_credentials())

    Entering waits until the certificate service has been reached; it does not wait for a lease.

    Args:
        certificate_service: `host:port` of the certificate service's mutual TLS listener; if it runs more than once,
            all of them with commas in between, or a name that stands for all of them.
        ca_file: PEM of the CA that its server certificate chains to.
        certificate: PEM of this server's own certificate, the leaf first. It must allow serverAuth and clientAuth, and
            its user must hold AUTHORIZE_PEERS.
        key: PEM of its private key, not encrypted, mode 0600.

    Raises, on entering:
        SecretFileError: the key's file cannot be used.
        OSError: another file cannot be read.
        TlsMaterialError: what is in them cannot work.

    Attributes, once entered:
        authorizer: for handlers that decide by themselves.
        reports: takes what is refused here by other rules, for `handclasp explain`.
        counters: what was counted since the start.
        background: tasks that run until this is left. One that ends by itself is a bug; without the watch there is no
            lease, and nothing is allowed.
    """

    authorizer: Authorizer
    reports: RefusalReports

    def __init__(
        self, certificate_service: str, *, ca_file: Path, certificate: Path, key: Path, options: Options | None = None
    ) -> None:
        self._addresses = certificate_service
        self._ca_file = ca_file
        self._files = IdentityFiles(certificate, key)
        self._options = options or Options()
        self._stack = AsyncExitStack()
        self.counters = Counters()
        self.background: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def ready(self) -> bool:
        """Whether there is a lease now: without one every call is answered with UNAVAILABLE."""
        return self._knowledge.lease_runs()

    @property
    def lease(self) -> float:
        """How long leases mostly are, in seconds, as the certificate service said. 0 before it has."""
        return self._watch.lease

    @property
    def revision(self) -> int:
        """The revision up to which all changes are heeded; 0 before the first is known."""
        return self._knowledge.revision

    @property
    def watched(self) -> str:
        """`host:port` of the certificate service at which the watch is open, or is opened next."""
        return self._link.watched

    @property
    def remembered(self) -> int:
        """How many decisions are remembered."""
        return len(self._decisions)

    @property
    def calls_in_progress(self) -> int:
        """How many calls that were allowed something have not ended."""
        return len(self._calls)

    def interceptor(
        self,
        requirements: Mapping[str, Requirement],
        *,
        translate: Translate | None = None,
        limits: CallLimits = DEFAULT_LIMITS,
    ) -> AuthorizationInterceptor:
        """An interceptor for a `grpc.aio` server. Arguments as of `AuthorizationInterceptor`."""
        return AuthorizationInterceptor(self.authorizer, requirements, translate=translate, limits=limits)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for one listener: mutual TLS with the own certificate. They follow the trust bundle, and the
        renewal of that certificate."""
        return self._trust.credentials()

    @property
    def listeners(self) -> Sequence[ReloadingCredentials]:
        """What `server_credentials` has given."""
        return self._trust.listeners

    async def _start(self, stack: AsyncExitStack) -> None:
        options = self._options
        identity = await asyncio.to_thread(self._files.read)
        ca_pem = compose_roots([await asyncio.to_thread(self._ca_file.read_bytes)])
        link = self._link = Link(split_addresses(self._addresses), ca_pem, identity)
        stack.push_async_callback(link.close)
        knowledge = self._knowledge = Knowledge(options.lease_clock, max_names=options.max_names)
        decisions = self._decisions = Decisions(knowledge, options.wall_clock, size=options.max_decisions)
        watch = self._watch = Watch(link, knowledge, decisions)
        questions = Questions(link, knowledge, options.wall_clock, self.counters, timeout=options.decision_timeout)
        stack.push_async_callback(questions.close)
        asking = Asking(
            knowledge,
            decisions,
            questions=questions,
            watch=watch,
            counters=self.counters,
            lease_wait=options.lease_wait,
        )
        calls = self._calls = CallsInProgress(
            knowledge, options.lease_clock, options.wall_clock, self.counters, asking.anew, grace=options.lease_grace
        )
        stack.push_async_callback(calls.close)
        self.authorizer = Authorizer(asking, calls)
        trust = self._trust = TrustFollower(link, knowledge, watch, identity, timeout=options.decision_timeout)
        await trust.read_at_start()
        watch.follow(calls)
        watch.follow(trust)
        renewal = IdentityRenewal(
            link,
            trust,
            watch,
            self._files,
            wall_clock=options.wall_clock,
            times=options.renewal,
            timeout=options.decision_timeout,
        )
        self.reports = RefusalReports(link, timeout=options.decision_timeout)
        self._run_in_background(stack, watch.run(), "watch")
        self._run_in_background(stack, self.reports.run(), "reports of refusals")
        self._run_in_background(stack, trust.run(), "trust bundle")
        self._run_in_background(stack, self._sweep(watch, calls), "sweep of calls in progress")
        if options.renew_identity:
            self._run_in_background(stack, renewal.run(), "renewal of the identity")

    async def _sweep(self, watch: Watch, calls: CallsInProgress) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            watch.log_lease()
            calls.look()

    def _run_in_background(self, stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.background.append(task)

        async def end() -> None:
            task.cancel()
            await asyncio.wait({task})

        stack.push_async_callback(end)
