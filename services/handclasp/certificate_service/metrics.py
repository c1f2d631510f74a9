"""The metrics of the certificate service. docs/monitoring.md says what each means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric as Family

from handclasp.certificate_service.certificate_counting import WITHIN, CertificateCounting
from handclasp.certificate_service.passwords.checking import Outcome
from handclasp.certificate_service.service import Service
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.figures import OPERATIONS
from handclasp.certificate_service.watching.coordination import Coordination
from handclasp.serving.clock import lease_clock
from handclasp.transport.listener_metrics import LISTENER_METRICS
from handclasp.transport.metric import Metric, Source, counter, gauge, histogram
from handclasp.transport.process_metrics import PROCESS_METRICS

BARRIER_SECONDS = histogram(
    "handclasp_barrier_wait_seconds",
    "How long changes waited, once they were committed, until they were in force everywhere.",
    ("ended",),
)
WATCHERS = gauge("handclasp_watchers", "Streams of relying parties.")
LEASES = gauge("handclasp_leases", "Leases that run.")
REVISION = gauge("handclasp_revision", "The last revision that is published here.", across=max)
WATCHER_LAG = gauge(
    "handclasp_watcher_lag_revisions", "How far the slowest relying party with a lease is behind.", across=max
)
DATABASE_LEASE = gauge(
    "handclasp_database_lease_seconds",
    "How long this process's own lease on the database still runs; +Inf on SQLite, negative if it is over.",
    across=min,
)
PASSWORDS = counter("handclasp_passwords", "Passwords that were sent, by what became of them.", ("outcome",))
PASSWORDS_UNDER_WAY = gauge("handclasp_passwords_under_way", "Passwords that are looked at, or wait for that.")
DATABASE_SECONDS = histogram("handclasp_database_seconds", "How long the database took.", ("operation",))
DATABASE_FAILURES = counter("handclasp_database_failures", "Operations that the database failed.", ("operation",))
WRITABLE = gauge("handclasp_database_writable", "1 unless what was written last failed for the disk.", across=min)
CONNECTIONS = gauge("handclasp_database_connections", "Connections to the database in use.", ("pool",))
CONNECTIONS_MOST = gauge("handclasp_database_connections_most", "How many a pool has at most.", ("pool",))
BATCHES = histogram("handclasp_commit_batch_writes", "How many writes shared a transaction of the group commit.")
COMMIT_WAITS = histogram("handclasp_commit_wait_seconds", "From a write's submission until its transaction began.")
RUN_AGAIN = counter("handclasp_commits_run_again", "Shared transactions that were rolled back and run one by one.")
CERTIFICATES = gauge("handclasp_certificates", "Certificates on file, by state.", ("state",), across=max)
ENDING = gauge(
    "handclasp_certificates_expiring", "Active certificates that end within a time.", ("within",), across=max
)

CERTIFICATE_METRICS: tuple[Metric, ...] = (
    *PROCESS_METRICS,
    *LISTENER_METRICS,
    BARRIER_SECONDS,
    WATCHERS,
    LEASES,
    REVISION,
    WATCHER_LAG,
    DATABASE_LEASE,
    PASSWORDS,
    PASSWORDS_UNDER_WAY,
    DATABASE_SECONDS,
    DATABASE_FAILURES,
    WRITABLE,
    CONNECTIONS,
    CONNECTIONS_MOST,
    BATCHES,
    COMMIT_WAITS,
    RUN_AGAIN,
    CERTIFICATES,
    ENDING,
)
"""All that a process of the service tells."""


def service_source(service: Service, counting: CertificateCounting) -> Source:
    """Tells all that are the certificate service's own."""

    def tell() -> Iterable[Family]:
        yield from _of_the_barrier(service.coordination)
        outcomes = service.passwords.outcomes
        yield PASSWORDS.family(((outcome.value,), outcomes[outcome]) for outcome in Outcome)
        yield PASSWORDS_UNDER_WAY.of(service.passwords.under_way)
        yield from _of_the_database(service.database)
        yield from _of_certificates(counting)

    return tell


def _of_the_barrier(coordination: Coordination) -> Iterator[Family]:
    leases, head = coordination.leases, coordination.feed.head.revision
    yield BARRIER_SECONDS.family(((ending.value,), seconds) for ending, seconds in coordination.barrier.waits.items())
    yield WATCHERS.of(leases.streams)
    yield LEASES.of(leases.running())
    yield REVISION.of(head)
    yield WATCHER_LAG.of(head - leases.settled_up_to(head))
    yield DATABASE_LEASE.of(coordination.replica.certain_until - lease_clock())


def _of_the_database(database: Database) -> Iterator[Family]:
    figures = database.figures
    yield DATABASE_SECONDS.family(((operation,), figures.seconds[operation]) for operation in OPERATIONS)
    yield DATABASE_FAILURES.family(((operation,), figures.failures[operation]) for operation in OPERATIONS)
    yield WRITABLE.of(database.writing.fault is None)
    connections = database.connections()
    yield CONNECTIONS.family(((name,), in_use) for name, (in_use, _) in connections.items())
    yield CONNECTIONS_MOST.family(((name,), most) for name, (_, most) in connections.items())
    yield BATCHES.of(figures.batches)
    yield COMMIT_WAITS.of(figures.waits)
    yield RUN_AGAIN.of(figures.run_again)


def _of_certificates(counting: CertificateCounting) -> Iterator[Family]:
    counts = counting.last
    if counts is not None:
        yield CERTIFICATES.family(((state.value,), count) for state, count in counts.by_state.items())
        yield ENDING.family(((name,), counts.ending[time]) for name, time in WITHIN.items())
