"""`handclasp csr`: certificate signing requests."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from handclasp.cli.commands import command, group
from handclasp.cli.output import print_json, print_line
from handclasp.cli.session import Session
from handclasp.client import files
from handclasp.client.csr import make_key_and_request

app = group("Certificate signing requests, made with a key of one's own.")


class KeyKind(StrEnum):
    """The kinds of key that TLS stacks take."""

    P256 = "p256"
    P384 = "p384"


KeyKindOption = Annotated[KeyKind, typer.Option("--key-type", help="The elliptic curve of the new key.")]


@command(app, "new", login=False)
async def new(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where key.pem and request.csr go.")],
    common_name: Annotated[
        str, typer.Option("--common-name", help="The subject, for outside CAs; Handclasp takes the user's instead.")
    ] = "handclasp",
    key_type: KeyKindOption = KeyKind.P256,
) -> None:
    """Make a private key and a request for a certificate; nothing leaves this machine."""
    key_file, request_file = out / "key.pem", out / "request.csr"
    files.refuse_existing((key_file, request_file))
    made = make_key_and_request(common_name, key_type.value)
    files.make_folder(out)
    with (
        files.NewFile(key_file, files.SECRET_MODE) as key,
        files.NewFile(request_file, files.PUBLIC_MODE) as request,
    ):
        key.fill(made.key_pem)
        request.fill(made.csr_pem)
    if session.as_json:
        print_json({"csr_file": str(request_file), "key_file": str(key_file)})
    else:
        print_line(f"Request: {request_file}\nPrivate key, for nobody else: {key_file}")
