"""`handclasp serve`: one service in the foreground, for real deployments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from handclasp.cli.commands import group
from handclasp.cli.first_administrator import announce
from handclasp.cli.output import print_line
from handclasp.errors import Reason
from handclasp.serving.handshake_watch import handshake_watch

app = group(
    "Run one service in the foreground. What has no option here is set by HANDCLASP_CERTIFICATES_* and"
    " HANDCLASP_EXECUTIONS_* variables, or in handclasp.toml."
)

_Port = Annotated[int | None, typer.Option(min=0, max=65535, metavar="PORT", help="0: any free one.")]
_Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="To listen on; loopback by default.")]
_Workers = Annotated[
    int | None,
    typer.Option(min=1, max=64, metavar="N", help="Processes that serve the ports together; one by default."),
]
_ReadyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Written when ready: JSON with the ports.")]


@app.command("certificates")
@handshake_watch()
def certificates(
    *,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Keys and the embedded database.")] = None,
    host: _Host = None,
    tls_port: _Port = None,
    mtls_port: _Port = None,
    health_port: _Port = None,
    trust_domain: Annotated[str | None, typer.Option(metavar="NAME", help="Fixed from the first start on.")] = None,
    server_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="DNS name or IP address that clients use. Repeatable.")
    ] = None,
    workers: _Workers = None,
    ready_file: _ReadyFile = None,
) -> None:
    """The certificate service. The first start makes the CA and the user admin, who gets a password only if standard
    output is a terminal: elsewhere it would stay in a supervisor's log."""
    from handclasp.certificate_service import first_start  # noqa: PLC0415
    from handclasp.certificate_service.context_file import (  # noqa: PLC0415
        ContextFileError,
        addresses_of,
        known_addresses,
        write_context_file,
    )
    from handclasp.certificate_service.main import Ports, start_errors, utc_now  # noqa: PLC0415
    from handclasp.certificate_service.processes import serve_processes  # noqa: PLC0415
    from handclasp.certificate_service.settings import CertificateServiceSettings  # noqa: PLC0415
    from handclasp.transport.ports import check_ports  # noqa: PLC0415
    from handclasp.transport.process import run_process  # noqa: PLC0415

    given = _given(
        data_dir=data_dir,
        host=host,
        tls_port=tls_port,
        mtls_port=mtls_port,
        health_port=health_port,
        trust_domain=trust_domain,
        server_names=tuple(server_name) if server_name else None,
        workers=workers,
        ready_file=ready_file,
    )

    async def start(settings: CertificateServiceSettings) -> None:
        with start_errors():
            prepared = await first_start.prepare(
                settings,
                utc_now,
                execution_server=False,
                with_password=sys.stdout.isatty(),
                check=lambda: check_ports(settings.wanted_ports),
            )
        announce(prepared, settings.data_dir)
        print_line(f"CA fingerprint (SHA-256): {prepared.ca_fingerprint}")

        def ready(ports: Ports) -> None:
            identity = prepared.administrator_identity
            if identity is None:
                return
            try:
                addresses = known_addresses(settings.data_dir) | addresses_of(settings, ports.tls, ports.mtls)
                write_context_file(settings.data_dir, identity, addresses)
            except ContextFileError as error:
                # The service goes on: nobody but the first administrator needs the file.
                print(f"{Reason.CONTEXT_INVALID}: {error}", file=sys.stderr)

        await serve_processes(settings, ready)

    run_process(
        "handclasp certificates", CertificateServiceSettings, lambda: CertificateServiceSettings(**given), start
    )


@app.command("executions")
@handshake_watch()
def executions(
    *,
    certificate_service: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT[,...]", help="The certificate service's mutual TLS listener, or several."),
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Its CA certificate.")] = None,
    cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="This server's certificate, for clientAuth and serverAuth.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (mode 0600).")] = None,
    host: _Host = None,
    port: _Port = None,
    health_port: _Port = None,
    integrations_folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Every *.py in it is loaded at start.")
    ] = None,
    workers: _Workers = None,
    ready_file: _ReadyFile = None,
) -> None:
    """The execution server, for whoever presents a certificate."""
    from handclasp.integration_execution.processes import serve_processes  # noqa: PLC0415
    from handclasp.integration_execution.settings import ExecutionSettings  # noqa: PLC0415
    from handclasp.transport.process import run_process  # noqa: PLC0415

    given = _given(
        certificate_service=certificate_service,
        ca_file=ca,
        identity_cert=cert,
        identity_key=key,
        host=host,
        port=port,
        health_port=health_port,
        integrations_folder=integrations_folder,
        workers=workers,
        ready_file=ready_file,
    )
    options = {"ca_file": "--ca", "identity_cert": "--cert", "identity_key": "--key"}
    run_process(
        "handclasp executions", ExecutionSettings, lambda: ExecutionSettings(**given), serve_processes, options=options
    )


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given; the others are for the environment and the settings file."""
    return {name: value for name, value in options.items() if value is not None}
