"""`handclasp cert`: certificates."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate, RevocationReason
from handclasp.cli import certificates
from handclasp.cli.commands import command, group
from handclasp.cli.csr import KeyKind, KeyKindOption
from handclasp.cli.output import moment as shown_moment
from handclasp.cli.output import print_json, print_line, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.taking_away import in_force_json, print_in_force, take_away
from handclasp.cli.text import shown
from handclasp.cli.values import duration, enum_name, labels, moment, to_duration, to_timestamp
from handclasp.client import files
from handclasp.client.names import CERTIFICATES, USERS, resource_id, resource_name
from handclasp.client.paging import items
from handclasp.errors import NotFound

app = group("Certificates: issue, renew, upload, list, hold, revoke.")


class State(StrEnum):
    """What is on record of a certificate."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    ON_HOLD = "on-hold"


class Reason(StrEnum):
    """Why a certificate is revoked (CRLReason, RFC 5280, section 5.3.1)."""

    NONE_GIVEN = "none-given"
    KEY_COMPROMISE = "key-compromise"
    CA_COMPROMISE = "ca-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"
    AA_COMPROMISE = "aa-compromise"


Id = Annotated[str, typer.Argument(metavar="ID", help="The certificate's id.", show_default=False)]
User = Annotated[str, typer.Option("--user", metavar="U", help="The user that it is mapped to.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where cert.pem and key.pem go.")]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="For programs; repeatable.")]


@command(app, "issue")
async def issue(
    session: Session,
    *,
    user: User,
    out: Out,
    csr_file: Annotated[
        Path | None, typer.Option("--csr", metavar="FILE", help="For the key in this request, PEM or DER.")
    ] = None,
    server_key: Annotated[bool, typer.Option("--server-key", help="Have the service make the key.")] = False,
    key_type: KeyKindOption = KeyKind.P256,
    lifetime: Annotated[
        timedelta | None,
        typer.Option(
            "--lifetime",
            metavar="TIME",
            help="30d, 12h, 90m, 45s; the service's maximum if not given.",
            parser=duration,
        ),
    ] = None,
    description: Description = None,
    label: Labels = None,
    server_names: Annotated[
        list[str] | None,
        typer.Option("--server-name", metavar="N", help="A DNS name or IP address, for a relying party; repeatable."),
    ] = None,
) -> None:
    """Issue a certificate. The key is made here and stays here, unless --csr or --server-key."""
    if csr_file is not None and server_key:
        raise typer.BadParameter("give --csr or --server-key, not both")
    request = messages.IssueCertificateRequest(
        user=resource_name(USERS, user),
        lifetime=None if lifetime is None else to_duration(lifetime),
        description=description or "",
        labels=labels(label or ()),
        server_names=server_names or (),
    )
    if csr_file is not None:
        issued = await certificates.issue_for_request(session, request, csr_file, out)
    elif server_key:
        issued = await certificates.issue_with_server_key(session, request, key_type, out)
    else:
        issued = await certificates.issue_with_local_key(session, request, key_type, out)
    _show_issued(session, issued)


@command(app, "renew", login=False)
async def renew(
    session: Session,
    certificate: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The id of the certificate that you present.", show_default=False),
    ] = None,
    *,
    out: Out,
    key_type: KeyKindOption = KeyKind.P256,
    lifetime: Annotated[
        timedelta | None,
        typer.Option(
            "--lifetime", metavar="TIME", help="30d, 12h, 90m, 45s; as it was before if not given.", parser=duration
        ),
    ] = None,
    certificate_file: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="The certificate to renew, instead of the context's.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key (mode 0600).")] = None,
) -> None:
    """Renew your own certificate, the context's or --cert, with a new key that is made here and stays here.

    It takes that certificate and no permission. The old one stays as it is.
    """
    client = session.holder_client(certificate_file, key_file)
    request = messages.RenewCertificateRequest(
        name="" if certificate is None else resource_name(CERTIFICATES, certificate),
        lifetime=None if lifetime is None else to_duration(lifetime),
    )
    _show_issued(session, await certificates.renew_with_local_key(client, request, key_type, out))


def _show_issued(session: Session, issued: certificates.Issued) -> None:
    if session.as_json:
        written = {
            "certificate_file": str(issued.certificate_file),
            "key_file": None if issued.key_file is None else str(issued.key_file),
        }
        print_json(to_json(issued.certificate) | written)
        return
    certificates.print_certificate(issued.certificate)
    print_line(f"Certificate: {issued.certificate_file}")
    if issued.key_file is not None:
        print_line(f"Private key, for nobody else: {issued.key_file}")


@command(app, "upload")
async def upload(
    session: Session,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Leaf and intermediates as PEM, or the leaf as DER.", show_default=False),
    ],
    *,
    user: User,
    key_file: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Its private key, to prove that you hold it; it is not sent."),
    ] = None,
    description: Description = None,
    label: Labels = None,
) -> None:
    """Upload a certificate that a trusted outside CA signed. Uploading for oneself needs --key."""
    request = messages.UploadCertificateRequest(
        user=resource_name(USERS, user), description=description or "", labels=labels(label or ())
    )
    _show(session, await certificates.upload(session, request, file, key_file))


@command(app, "list")
async def list_certificates(
    session: Session,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="U", help="Only this user's.")] = None,
    states: Annotated[list[State] | None, typer.Option("--state", help="Only those; repeatable.")] = None,
    serial: Annotated[str, typer.Option("--serial", metavar="HEX", help="Only those with this serial number.")] = "",
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", metavar="SHA256", help="Only the one with this fingerprint.")
    ] = "",
    expires_before: Annotated[
        datetime | None,
        typer.Option(
            "--expires-before", metavar="TIME", help="2026-01-31, 2026-01-31T12:00:00Z, or 30d from now.", parser=moment
        ),
    ] = None,
    expires_after: Annotated[
        datetime | None,
        typer.Option("--expires-after", metavar="TIME", help="That moment or later.", parser=moment),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")] = None,
) -> None:
    """List the certificates that you may see, oldest first. All filters must match."""
    request = messages.ListCertificatesRequest(
        user=resource_name(USERS, user) if user is not None else "",
        states=[Certificate.State.Value(f"STATE_{state.name}") for state in states or ()],
        serial=serial,
        fingerprint=fingerprint,
        expire_before=None if expires_before is None else to_timestamp(expires_before),
        expire_after=None if expires_after is None else to_timestamp(expires_after),
    )
    async with session.client() as client:
        found = items(client.certificates.ListCertificates, request, lambda page: list(page.certificates), limit)
        listed = [certificate async for certificate in found]
    if session.as_json:
        print_json({"certificates": [to_json(certificate) for certificate in listed]})
    else:
        print_table(
            ("ID", "USER", "STATE", "EXPIRES"),
            [certificates.summary(certificate) for certificate in listed],
            "no certificates",
            whole=("STATE", "EXPIRES"),
        )


@command(app, "show")
async def show(session: Session, certificate: Id) -> None:
    """Show a certificate."""
    async with session.client() as client:
        request = messages.GetCertificateRequest(name=resource_name(CERTIFICATES, certificate))
        _show(session, await client.certificates.GetCertificate(request))


@command(app, "download")
async def download(
    session: Session,
    certificate: Id,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where it goes; standard output if not given.")
    ] = None,
) -> None:
    """Download a certificate: the leaf and then its intermediates, as PEM."""
    if out is not None:
        files.refuse_existing((out,))
    async with session.client() as client:
        request = messages.GetCertificateRequest(name=resource_name(CERTIFICATES, certificate))
        found = await client.certificates.GetCertificate(request)
    if out is not None:
        files.write_new(out, found.pem.encode(), files.PUBLIC_MODE)
    if session.as_json:
        print_json(to_json(found) | {"certificate_file": None if out is None else str(out)})
    elif out is not None:
        print_line(f"Certificate: {out}")
    else:
        print(shown(found.pem), end="")


@command(app, "update")
async def update(
    session: Session,
    certificate: Id,
    description: Description = None,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False,
) -> None:
    """Change description or labels (those given instead of all)."""
    if label and no_labels:
        raise typer.BadParameter("give --label or --no-labels, not both")
    request = messages.UpdateCertificateRequest(certificate=Certificate(name=resource_name(CERTIFICATES, certificate)))
    if description is not None:
        request.certificate.description = description
        request.update_mask.paths.append("description")
    if label or no_labels:
        request.certificate.labels.update(labels(label or ()))
        request.update_mask.paths.append("labels")
    if not request.update_mask.paths:
        raise typer.BadParameter("nothing to change; give --description, --label or --no-labels")
    async with session.client() as client:
        _show(session, await client.certificates.UpdateCertificate(request))


@command(app, "revoke")
async def revoke(
    session: Session,
    certificate: Annotated[
        str | None, typer.Argument(metavar="ID", help="The certificate's id.", show_default=False)
    ] = None,
    reason: Annotated[Reason, typer.Option("--reason", help="Why.")] = Reason.NONE_GIVEN,
    user: Annotated[str | None, typer.Option("--user", metavar="U", help="With --all: all of this user's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --user: all of the user's certificates.")] = False,
) -> None:
    """Revoke a certificate for good, or all of a user's."""
    if (certificate is None) == (user is None) or everything != (user is not None):
        raise typer.BadParameter("give the ID of a certificate, or --user and --all")
    why = RevocationReason.Value(f"REVOCATION_REASON_{reason.name}")
    if user is not None:
        await _revoke_all(session, messages.RevokeUserCertificatesRequest(user=resource_name(USERS, user), reason=why))
        return
    request = messages.RevokeCertificateRequest(name=resource_name(CERTIFICATES, certificate or ""), reason=why)
    async with session.client() as client:
        try:
            done = await take_away(lambda: client.certificates.RevokeCertificate(request), repeat=True)
        except NotFound as error:
            raise NotFound(
                error.reason,
                f"{error.message}; to revoke all of a user's: --user NAME --all",
                metadata=error.metadata,
            ) from error
    revoked = done.answer
    if session.as_json:
        print_json(to_json(revoked) | in_force_json(done))
        return
    if revoked.HasField("revocation") and revoked.revocation.reason != why:
        # The first revocation counts, whatever reason comes later.
        stays = enum_name(RevocationReason, revoked.revocation.reason, "REVOCATION_REASON_")
        when = shown_moment(revoked.revocation.revoke_time)
        print_line(f"{revoked.name} of {revoked.user} was revoked already at {when}: {stays}; that stays.")
    else:
        print_line(f"{revoked.name} of {revoked.user} is revoked.")
    print_in_force(done)


async def _revoke_all(session: Session, request: messages.RevokeUserCertificatesRequest) -> None:
    async with session.client() as client:
        done = await take_away(lambda: client.certificates.RevokeUserCertificates(request))
    count = done.answer.revoked_count
    if session.as_json:
        print_json({"user": request.user, "revoked_count": count} | in_force_json(done))
        return
    subject = "1 certificate" if count == 1 else f"{count} certificates"
    print_line(f"{subject} of {resource_id(request.user)} {'is' if count == 1 else 'are'} revoked.")
    print_in_force(done)


@command(app, "hold")
async def hold(session: Session, certificate: Id) -> None:
    """Put a certificate on hold: it is refused until it is reinstated, or revoked for good."""
    request = messages.HoldCertificateRequest(name=resource_name(CERTIFICATES, certificate))
    async with session.client() as client:
        done = await take_away(lambda: client.certificates.HoldCertificate(request), repeat=True)
    held = done.answer
    if session.as_json:
        print_json(to_json(held) | in_force_json(done))
        return
    print_line(f"{held.name} of {held.user} is on hold since {shown_moment(held.hold.hold_time)}.")
    print_in_force(done)


@command(app, "reinstate")
async def reinstate(session: Session, certificate: Id) -> None:
    """End a hold: the certificate is good for what it was good for before."""
    request = messages.ReinstateCertificateRequest(name=resource_name(CERTIFICATES, certificate))
    async with session.client() as client:
        done = await take_away(lambda: client.certificates.ReinstateCertificate(request), repeat=True)
    found = done.answer
    if session.as_json:
        print_json(to_json(found) | in_force_json(done))
        return
    state = enum_name(Certificate.State, found.state, "STATE_")
    print_line(f"{found.name} of {found.user} is not on hold; its state is {state}.")
    print_in_force(done)


def _show(session: Session, certificate: Certificate) -> None:
    if session.as_json:
        print_json(to_json(certificate))
    else:
        certificates.print_certificate(certificate)
