"""`handclasp enroll`: the first certificate of a machine that holds none; or another replica."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import hashes

from handclasp.cli.commands import command, single
from handclasp.cli.csr import KeyKind, KeyKindOption
from handclasp.cli.enrolling import Enrolled, Places, enroll_user
from handclasp.cli.enrolling_replica import Replica, enroll_as_replica
from handclasp.cli.output import print_json, print_line, print_note, to_json
from handclasp.cli.passwords import ask_password
from handclasp.cli.session import Session
from handclasp.cli.values import host_and_port, hosts_and_ports
from handclasp.client import files
from handclasp.client.bootstrap import normalize_fingerprint

app = single("Get the first certificate of this machine, with a token that `handclasp admin token` made elsewhere.")

_STANDARD_INPUT = Path("-")


@command(app, "enroll", login=False)
async def enroll(
    session: Session,
    *,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="T", help="The token itself, which other users of this machine can see while this runs."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="The token, as `handclasp admin token` printed it, is in this file (mode 0600); - for standard input."
            " Asked for at a terminal.",
        ),
    ] = None,
    ca_fingerprint: Annotated[
        str,
        typer.Option("--ca-fingerprint", metavar="SHA256", help="The CA's fingerprint, from whoever runs the service."),
    ],
    url: Annotated[
        str,
        typer.Option(
            "--url", metavar="HOST:PORT", help="The certificate service's one-way TLS listener.", parser=host_and_port
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where ca.pem, cert.pem, key.pem and context.toml go.")
    ],
    certificates_mtls: Annotated[
        str | None,
        typer.Option(
            "--certificates-mtls",
            metavar="HOST:PORT",
            help="Its mutual TLS listener, for context.toml; the same host, and the port that it says, if not given.",
            parser=hosts_and_ports,
        ),
    ] = None,
    executions: Annotated[
        str | None,
        typer.Option(
            "--executions", metavar="HOST:PORT", help="The execution server, for context.toml.", parser=hosts_and_ports
        ),
    ] = None,
    key_type: KeyKindOption = KeyKind.P256,
    replica: Annotated[
        bool,
        typer.Option(
            "--replica", help="Make DIR the data folder of another replica of the certificate service, a CA itself."
        ),
    ] = False,
) -> None:
    """Make a key here, and have the certificate issued for it that the token is good for.

    The CA is believed by its fingerprint only, and the token is not sent to anybody who is not under that CA. If the
    answer is lost, the same command again gets the same certificate, for the key that is there by then.
    """
    fingerprint = normalize_fingerprint(ca_fingerprint)
    secret = _token(token, token_file)
    if replica:
        if certificates_mtls is not None or executions is not None:
            raise typer.BadParameter("--certificates-mtls and --executions are for a context file; leave them out")
        _show_replica(session, await enroll_as_replica(secret, fingerprint, url, out))
        return
    enrolled = await enroll_user(secret, fingerprint, Places(url, certificates_mtls, executions), out, key_type)
    if session.as_json:
        print_json(to_json(enrolled.certificate) | {name: str(path) for name, path in enrolled.written().items()})
        return
    _show(enrolled)


def _token(given: str | None, file: Path | None) -> str:
    match given, file:
        case str(), None:
            print_note(
                "other users of this machine can see what is given by --token, and the shell may keep it; use"
                " --token-file, or leave it out and be asked"
            )
            return given.strip()
        case None, _ if sys.stdin.isatty() and file in (None, _STANDARD_INPUT):
            return ask_password("Token").strip()
        case None, Path() if file == _STANDARD_INPUT:
            return files.password_text(sys.stdin.buffer.readline(), "the token on standard input").strip()
        case None, Path():
            content = files.read_secret(file, "the token file")
            return files.password_text(content, f"the token file {file}").strip()
    raise typer.BadParameter("give --token-file, or - as its FILE for standard input; and not --token as well")


def _show_replica(session: Session, made: Replica) -> None:
    if session.as_json:
        fields = {
            "data_dir": str(made.data_dir),
            "trust_domain": made.trust_domain,
            "authority": made.authority.subject.rfc4514_string(),
            "fingerprint": made.authority.fingerprint(hashes.SHA256()).hex(),
            "command": made.command,
        }
        print_json(fields)
        return
    print_line(
        f"{made.data_dir} is the data folder of another replica. It signs certificates with a key of its own, in"
        f" {made.data_dir / 'keys'} and nowhere else. Start it on the database of the others (URL), with the name that"
        " clients will call it by (NAME):"
    )
    print_line(f"  {made.command}")


def _show(enrolled: Enrolled) -> None:
    certificate = enrolled.certificate
    print_line(f"{certificate.name} of {certificate.user}, in {enrolled.certificate_file}")
    print_line(f"Private key, for nobody else: {enrolled.key_file}")
    print_line(f"CA certificate: {enrolled.ca_file}")
    print_line(f"Context file:   {enrolled.context_file}")
    if enrolled.for_server:
        print_line(
            "An execution server is started with\n"
            f"  handclasp serve executions --certificate-service {enrolled.mtls} --ca {enrolled.ca_file}"
            f" --cert {enrolled.certificate_file} --key {enrolled.key_file}"
        )
