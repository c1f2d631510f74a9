"""`handclasp trust`: outside CAs, and how to come to trust this service's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import TrustAnchor
from handclasp.cli.commands import command, group
from handclasp.cli.output import moment, print_details, print_json, print_line, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.taking_away import in_force_json, print_in_force, take_away
from handclasp.client import files
from handclasp.client.bootstrap import fetch_authority, normalize_fingerprint
from handclasp.client.names import TRUST_ANCHORS, resource_id, resource_name
from handclasp.client.paging import items
from handclasp.client.pem import pem_text
from handclasp.client.private_key import read_public

app = group("Outside CAs whose certificates may be uploaded; and this service's own CA, by its fingerprint.")


@command(app, "add")
async def add(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The CA certificate, as PEM or DER.", show_default=False)
    ],
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
) -> None:
    """Add an outside CA as a trust anchor."""
    content = read_public(file, "the CA certificate")
    request = messages.AddTrustAnchorRequest(display_name=display_name)
    if (pem := pem_text(content)) is not None:
        request.pem = pem
    else:
        request.der = content
    async with session.client() as client:
        done = await take_away(lambda: client.certificates.AddTrustAnchor(request))
    if session.as_json:
        print_json(to_json(done.answer) | in_force_json(done))
        return
    _print(done.answer)
    print_in_force(done)


@command(app, "list")
async def list_anchors(
    session: Session, limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")] = None
) -> None:
    """List the trust anchors that you may see."""
    async with session.client() as client:
        request = messages.ListTrustAnchorsRequest()
        found = items(client.certificates.ListTrustAnchors, request, lambda page: list(page.trust_anchors), limit)
        anchors = [anchor async for anchor in found]
    if session.as_json:
        print_json({"trust_anchors": [to_json(anchor) for anchor in anchors]})
        return
    rows = [
        (resource_id(anchor.name), anchor.display_name, anchor.subject, moment(anchor.not_after)) for anchor in anchors
    ]
    print_table(("ID", "DISPLAY NAME", "SUBJECT", "EXPIRES"), rows, "no trust anchors", whole=("EXPIRES",))


@command(app, "remove")
async def remove(
    session: Session,
    anchor: Annotated[str, typer.Argument(metavar="ID", help="The trust anchor's id.", show_default=False)],
) -> None:
    """Remove a trust anchor: certificates under it are refused from then on."""
    request = messages.RemoveTrustAnchorRequest(name=resource_name(TRUST_ANCHORS, anchor))
    async with session.client() as client:
        done = await take_away(lambda: client.certificates.RemoveTrustAnchor(request))
    if session.as_json:
        print_json({"removed": request.name} | in_force_json(done))
        return
    print_line(f"{request.name} is removed.")
    print_in_force(done)


@command(app, "fetch", login=False)
async def fetch(
    session: Session,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="host:port of the certificate service's one-way TLS.", show_default=False
        ),
    ],
    ca_fingerprint: Annotated[
        str,
        typer.Option("--ca-fingerprint", metavar="SHA256", help="The CA's fingerprint, from whoever runs the service."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the CA certificate goes.")],
) -> None:
    """Fetch the service's CA certificate, and believe it by its fingerprint only."""
    files.refuse_existing((out,))
    pem = await fetch_authority(address, ca_fingerprint)
    files.write_new(out, pem, files.PUBLIC_MODE)
    if session.as_json:
        print_json({"ca_file": str(out), "fingerprint": normalize_fingerprint(ca_fingerprint)})
    else:
        print_line(f"The fingerprint matches, and {address} is under that CA. CA certificate: {out}")


def _print(anchor: TrustAnchor) -> None:
    print_details(
        anchor.name,
        (
            ("display name", anchor.display_name),
            ("subject", anchor.subject),
            ("fingerprint", anchor.fingerprint),
            ("valid from", moment(anchor.not_before)),
            ("expires", moment(anchor.not_after)),
            ("added", moment(anchor.create_time)),
            ("added by", anchor.created_by),
        ),
    )
