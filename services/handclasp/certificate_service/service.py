"""Wires the parts together, for whoever runs them: the server, the first start, the offline recovery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from handclasp.certificate_service.certificate_authority import Installation, open_installation
from handclasp.certificate_service.data_folder import KEYS, sqlite_file
from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.listeners import ListenerCredentials
from handclasp.certificate_service.passwords.checking import PasswordChecker
from handclasp.certificate_service.passwords.guesses import Guesses
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.queue import PasswordQueue, QueueLimits
from handclasp.certificate_service.passwords.throttle import PasswordThrottle
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.users import find_password_hash
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.access_profiles import AccessProfiles
from handclasp.certificate_service.use_cases.authentication import Authenticator
from handclasp.certificate_service.use_cases.caller import Clock
from handclasp.certificate_service.use_cases.certificates import Certificates
from handclasp.certificate_service.use_cases.check_permission import CheckPermission
from handclasp.certificate_service.use_cases.denial_log import DenialLog
from handclasp.certificate_service.use_cases.enroll import Enroll
from handclasp.certificate_service.use_cases.enroll_replica import EnrollReplica
from handclasp.certificate_service.use_cases.enrollment_tokens import EnrollmentTokens
from handclasp.certificate_service.use_cases.explain_decision import ExplainDecision
from handclasp.certificate_service.use_cases.issue_certificate import IssueCertificate
from handclasp.certificate_service.use_cases.issuer_chains import IssuerChains
from handclasp.certificate_service.use_cases.issuing import Issuing
from handclasp.certificate_service.use_cases.issuing_rights import IssuingRights
from handclasp.certificate_service.use_cases.list_refusals import ListRefusals
from handclasp.certificate_service.use_cases.pages import PageTokens
from handclasp.certificate_service.use_cases.recognized_tokens import RecognizedTokens
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecords
from handclasp.certificate_service.use_cases.renew_certificate import RenewCertificate
from handclasp.certificate_service.use_cases.report_refusals import ReportRefusals
from handclasp.certificate_service.use_cases.trust_anchors import TrustAnchors
from handclasp.certificate_service.use_cases.trust_bundle import CurrentTrustBundle
from handclasp.certificate_service.use_cases.upload_certificate import UploadCertificate
from handclasp.certificate_service.use_cases.users import Users
from handclasp.certificate_service.use_cases.watch_authorization import WatchAuthorization, WatchLimits, WatchParts
from handclasp.certificate_service.watching.coordination import Coordination, coordinate
from handclasp.serving.clock import lease_clock
from handclasp.serving.refusal_log import refusal_log


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that the service can do, on an open database."""

    settings: CertificateServiceSettings
    clock: Clock
    database: Database
    installation: Installation
    listeners: ListenerCredentials
    denials: DenialLog
    authenticator: Authenticator
    passwords: PasswordChecker
    users: Users
    profiles: AccessProfiles
    certificates: Certificates
    issue: IssueCertificate
    renew: RenewCertificate
    upload: UploadCertificate
    enrollment_tokens: EnrollmentTokens
    enroll: Enroll
    enroll_replica: EnrollReplica
    check: CheckPermission
    anchors: TrustAnchors
    bundle: CurrentTrustBundle
    chains: IssuerChains
    explain: ExplainDecision
    refusal_records: RefusalRecords
    list_refusals: ListRefusals
    report_refusals: ReportRefusals
    coordination: Coordination
    watching: WatchAuthorization


@asynccontextmanager
async def open_service(
    settings: CertificateServiceSettings, clock: Clock, steady: Callable[[], float] = lease_clock
) -> AsyncIterator[Service]:
    """Opens the database, brings it up to date, reads or makes the CA, and wires the use cases.

    The data folder must be held by this process already.

    Args:
        steady: seconds on a clock that nobody sets, for how long those who guess have to wait.

    Raises:
        DataFolderError: another process serves the SQLite database.
        InstallationError, SchemaTooNewError, SQLAlchemyError
    """
    async with AsyncExitStack() as stack:
        if settings.sqlite_file is not None:
            stack.enter_context(sqlite_file(settings.sqlite_file))
        database = open_database(settings.url())
        stack.push_async_callback(database.close)
        await migrate(database)

        async def reload_anchors() -> None:
            await listeners.reload_bundle()

        installation = await open_installation(
            database,
            settings.data_dir / KEYS,
            trust_domain=settings.trust_domain,
            passphrase=settings.passphrase(),
            now=clock(),
        )
        coordination = await coordinate(
            database,
            url=settings.url(),
            lease=settings.lease,
            maximum_watchers=settings.maximum_watchers,
            maximum_watchers_per_user=settings.maximum_watchers_per_user,
            notifications=settings.database_notifications,
            secret=installation.page_token_key,
            reload_anchors=reload_anchors,
            clock=lease_clock,
        )
        stack.push_async_callback(coordination.close)
        barrier = coordination.barrier
        argon2 = Argon2(concurrency=settings.password_checks)
        stack.callback(argon2.close)

        def known_head() -> int | None:
            # Of what other processes commit, this one learns a little later.
            return None if database.shared else coordination.feed.known_head

        facts = FactsReader(database, known_head, remembered=settings.remembered_peers)
        coordination.feed.on_parted(facts.forget)
        stack.push_async_callback(facts.close)
        denials = DenialLog(database, settings.denials, clock)
        stack.push_async_callback(denials.try_to_flush)
        refusal_records = RefusalRecords(database, settings.refusal_records, clock)
        stack.push_async_callback(refusal_records.try_to_flush)

        async def find_hash(user_id: str) -> str | None:
            return await database.read(lambda snapshot: find_password_hash(snapshot, user_id))

        passwords = PasswordChecker(
            argon2,
            Guesses(settings.throttle),
            PasswordQueue(
                QueueLimits(
                    at_once=settings.password_checks,
                    waiting=settings.password_checks_waiting_in_all,
                    waiting_per_address=settings.password_checks_waiting,
                ),
                steady,
            ),
            find_hash,
            clock=clock,
            steady=steady,
        )
        authenticator = Authenticator(facts, passwords, denials, clock)
        access = Access(denials, protect_administrators=settings.protect_administrators)
        tokens = PageTokens(installation.page_token_key)
        issuing = Issuing(
            database,
            installation.issuing,
            trust_domain=settings.trust_domain,
            maximum_lifetime=settings.maximum_lifetime,
            clock=clock,
        )
        rights = IssuingRights(access, own_names=settings.server_names, clock=clock)
        enrollment = RecognizedTokens(database, PasswordThrottle(settings.throttle), denials, clock, steady)

        def known_position() -> Position | None:
            return None if database.shared or coordination.feed.known_head is None else coordination.feed.head

        bundle = CurrentTrustBundle(database, known_position)
        anchors = TrustAnchors(database, barrier, access, tokens, clock)
        listeners = ListenerCredentials(
            installation,
            names=settings.server_names,
            lifetime=settings.server_certificate_lifetime,
            read_bundle=bundle.read,
            clock=clock,
        )
        await listeners.reload_bundle()
        yield Service(
            settings=settings,
            clock=clock,
            database=database,
            installation=installation,
            listeners=listeners,
            denials=denials,
            authenticator=authenticator,
            passwords=passwords,
            users=Users(
                database,
                barrier,
                access,
                tokens,
                passwords=passwords,
                minimum_password_length=settings.minimum_password_length,
                clock=clock,
            ),
            profiles=AccessProfiles(database, barrier, access, tokens, clock),
            certificates=Certificates(database, barrier, access, tokens, clock),
            issue=IssueCertificate(rights, issuing),
            renew=RenewCertificate(database, rights, issuing, clock),
            upload=UploadCertificate(database, access, trust_domain=settings.trust_domain, clock=clock),
            enrollment_tokens=EnrollmentTokens(
                database,
                access,
                rights,
                tokens,
                maximum_lifetime=settings.maximum_enrollment_token_lifetime,
                clock=clock,
            ),
            enroll=Enroll(enrollment, rights, issuing, clock),
            enroll_replica=EnrollReplica(barrier, access, enrollment, installation, clock),
            check=CheckPermission(facts, authenticator, access, denials, clock=clock, log=refusal_log().record),
            anchors=anchors,
            bundle=bundle,
            chains=IssuerChains(database),
            explain=ExplainDecision(denials, access),
            refusal_records=refusal_records,
            list_refusals=ListRefusals(database, denials, refusal_records, access, tokens),
            report_refusals=ReportRefusals(refusal_records, access),
            coordination=coordination,
            watching=WatchAuthorization(
                WatchParts(
                    feed=coordination.feed,
                    leases=coordination.leases,
                    replica=coordination.replica,
                    limits=WatchLimits(settings.lease, settings.ping_interval),
                    facts=facts,
                    authenticator=authenticator,
                    access=access,
                    clock=clock,
                    lease_clock=lease_clock,
                )
            ),
        )
