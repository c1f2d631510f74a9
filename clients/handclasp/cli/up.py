"""`handclasp up`: both services on this machine, as processes, with everything in one folder."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from handclasp.cli.commands import single
from handclasp.cli.first_administrator import announce
from handclasp.cli.output import print_line
from handclasp.errors import FailedPrecondition, HandclaspError, Reason

if TYPE_CHECKING:
    from handclasp.certificate_service.first_start import Prepared
    from handclasp.cli.pair import RunningPair

_NAME = "handclasp"

app = single("Both services on this machine.")


@app.command("up")
def up(
    data_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Keys, logs, context file, and the database unless database_url is set.")
    ] = Path("handclasp-data"),
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Listen on any free ports.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written once both services are healthy: JSON.")
    ] = None,
) -> None:
    """Start both services on this machine, and stop them on Ctrl-C. The first start makes the CA and the user admin."""
    from handclasp.cli.pair import run_pair  # noqa: PLC0415 - brings in both services
    from handclasp.transport.process import StartError  # noqa: PLC0415

    program = _program()
    console = Console(stderr=True, highlight=False)
    with console.status("Starting both services ...") as status:

        def prepared(made: Prepared) -> None:
            status.stop()
            announce(made, data_dir)
            status.start()

        def ready(pair: RunningPair) -> None:
            status.stop()
            _print_how_to_go_on(pair, program)

        def stopping() -> None:
            status.update("Stopping both services ...")
            status.start()

        running = run_pair(
            data_dir, free_ports=free_ports, ready_file=ready_file, prepared=prepared, ready=ready, stopping=stopping
        )
        try:
            asyncio.run(running)
        except (StartError, HandclaspError) as error:
            raise FailedPrecondition(Reason.START_NOT_POSSIBLE, str(error)) from error


def _program() -> str:
    """What to type for this program: by its path, if it would not be found otherwise."""
    started_by = Path(sys.argv[0])
    found = shutil.which(_NAME)
    if started_by.name != _NAME or (found is not None and Path(found).samefile(started_by)):
        return _NAME
    return shlex.quote(str(started_by.absolute()))


def _print_how_to_go_on(pair: RunningPair, program: str) -> None:
    prepared, addresses = pair.prepared, pair.addresses
    print_line(f"CA fingerprint (SHA-256): {prepared.ca_fingerprint}")
    print_line(
        f"Serving: certificates on {addresses['certificates_tls']} (TLS) and {addresses['certificates_mtls']} (mTLS),"
        f" integrations on {addresses['executions']} (mTLS). Logs: {pair.logs}"
    )
    identity = prepared.administrator_identity
    if pair.context_file is None or identity is None:
        print_line("No context file was written: the user admin is disabled or gone.")
        return
    method = "handclasp.integrations.v1.IntegrationService/ExecuteIntegration"
    body = '{"name": "integrations/echo", "input": {"hello": "world"}}'
    context_file, ca_file, certificate, key = (
        shlex.quote(str(path))
        for path in (pair.context_file, prepared.ca_file, identity / "cert.pem", identity / "key.pem")
    )
    print_line("\nTry:")
    print_line(f"  export HANDCLASP_CONTEXT={context_file}")
    print_line(f"""  {program} run echo --input '{{"hello": "world"}}'""")
    print_line(
        f"  grpcurl -cacert {ca_file} -cert {certificate} -key {key} -d '{body}' {addresses['executions']} {method}"
    )
    print_line(
        f"  buf curl --protocol grpc --cacert {ca_file} --cert {certificate} --key {key} -d '{body}'"
        f" https://{addresses['executions']}/{method}"
    )
    print_line("\nPress Ctrl-C to stop.")
