"""docs/troubleshooting.md: what the clients that are on this machine show is what it says, word for word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.e2e.processes import Pair, free_port, running_up
from tests.support.markdown import ROOT, inline_code, rows, section
from tests.support.outside_ca import Issued, OutsideCA
from tests.support.tools import require_tool

pytestmark = pytest.mark.timeout(300)

METHOD = "handclasp.integrations.v1.IntegrationService/ListIntegrations"
CA = OutsideCA("Partner CA")
DESCRIPTORS = "protos.binpb"

PYTHON = """
import sys, grpc
address, ca, cert, key, name = sys.argv[1:]
read = lambda path: open(path, "rb").read() if path else None
credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
options = [("grpc.ssl_target_name_override", name)] if name else []
channel = grpc.secure_channel(address, credentials, options) if ca else grpc.insecure_channel(address)
try:
    channel.unary_unary("/METHOD")(b"", timeout=20)
except grpc.RpcError as error:
    print(error.code(), error.details())
""".replace("METHOD", METHOD)


@dataclass(frozen=True)
class Attempt:
    """How a client connects.

    Attributes:
        ca: the CA file; None for no TLS.
        name: what the server is to be called; empty for its own.
    """

    address: str
    ca: Path | None
    cert: Path | None = None
    key: Path | None = None
    name: str = ""

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("troubleshooting")
    describe = [sys.executable, str(ROOT / "tools/protos.py"), "--descriptors", str(folder / DESCRIPTORS)]
    subprocess.run(describe, cwd=ROOT, check=True, capture_output=True)
    with running_up(folder) as running:
        (folder / "anchor.pem").write_text(CA.pem, encoding="utf-8")
        running.json("trust", "add", folder / "anchor.pem")
        yield running


def presenting(pair: Pair, issued: Issued) -> Attempt:
    cert, key = pair.folder / "client.pem", pair.folder / "client.key"
    cert.write_text(issued.pem, encoding="utf-8")
    key.write_text(issued.key_pem, encoding="utf-8")
    key.chmod(0o600)
    return Attempt(pair.ready["executions"], Path(pair.ready["ca_file"]), cert, key)


def refused(pair: Pair) -> Attempt:
    return presenting(pair, CA.issue(not_before=CA.now - timedelta(days=2), not_after=CA.now - timedelta(days=1)))


def distrusting(pair: Pair) -> Attempt:
    return Attempt(pair.ready["executions"], pair.folder / "anchor.pem")


def misnamed(pair: Pair) -> Attempt:
    return Attempt(pair.ready["executions"], Path(pair.ready["ca_file"]), name="elsewhere.example")


def in_the_clear(pair: Pair) -> Attempt:
    return Attempt(pair.ready["executions"], None)


def at_nobody(pair: Pair) -> Attempt:
    return Attempt(f"localhost:{free_port()}", Path(pair.ready["ca_file"]))


def not_on_file(pair: Pair) -> Attempt:
    return presenting(pair, CA.issue())


SITUATIONS: dict[str, Callable[[Pair], Attempt]] = {
    "The server refused the certificate": refused,
    "The client does not trust the server": distrusting,
    "The name is another one": misnamed,
    "The client does not use TLS": in_the_clear,
    "Nothing listens there": at_nobody,
    "TLS is through, and the certificate is not accepted": not_on_file,
}


def options(attempt: Attempt, *, ca: str, cert: str, key: str) -> list[str]:
    found = [ca, str(attempt.ca)] if attempt.ca else []
    return [*found, cert, str(attempt.cert), key, str(attempt.key)] if attempt.cert else found


def of_grpcurl(attempt: Attempt) -> list[str]:
    tls = options(attempt, ca="-cacert", cert="-cert", key="-key") if attempt.ca else ["-plaintext"]
    name = ["-servername", attempt.name] if attempt.name else []
    limits = ["-max-time", "20", "-connect-timeout", "5"]
    return [require_tool("grpcurl"), *limits, *tls, *name, attempt.address, METHOD]


def of_buf(attempt: Attempt) -> list[str]:
    tls = options(attempt, ca="--cacert", cert="--cert", key="--key") if attempt.ca else ["--http2-prior-knowledge"]
    name = ["--servername", attempt.name] if attempt.name else []
    scheme = "https" if attempt.ca else "http"
    # Without a schema it asks the server for one first, and tells of that.
    asked = ["--protocol", "grpc", "--schema", DESCRIPTORS, "--data", "{}"]
    return [require_tool("buf"), "curl", *asked, *tls, *name, f"{scheme}://{attempt.address}/{METHOD}"]


def of_python(attempt: Attempt) -> list[str]:
    files = (attempt.ca, attempt.cert, attempt.key)
    return [sys.executable, "-c", PYTHON, attempt.address, *(str(file or "") for file in files), attempt.name]


def of_curl(attempt: Attempt) -> list[str]:
    tls = options(attempt, ca="--cacert", cert="--cert", key="--key")
    name = attempt.name or "localhost"
    url = f"{'https' if attempt.ca else 'http'}://{name}:{attempt.port}/"
    resolve = f"{name}:{attempt.port}:127.0.0.1"
    return [require_tool("curl"), "-sS", "-m", "20", "--http2", "--resolve", resolve, *tls, url]


def of_openssl(attempt: Attempt) -> list[str]:
    tls = options(attempt, ca="-CAfile", cert="-cert", key="-key")
    name = ["-verify_hostname", attempt.name] if attempt.name else []
    command = [require_tool("openssl"), "s_client", "-connect", attempt.address, "-alpn", "h2"]
    # It goes on with what it reads, and ends when there is nothing more to read from the server.
    return [*command, "-verify_return_error", "-ign_eof", *tls, *name]


CLIENTS: dict[str, Callable[[Attempt], list[str]]] = {
    "grpcurl": of_grpcurl,
    "buf curl": of_buf,
    "Python": of_python,
    "curl": of_curl,
    "openssl s_client": of_openssl,
}
DOCUMENT = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
CASES = [
    (heading, client, text)
    for heading in SITUATIONS
    for client, text in rows(section(DOCUMENT, heading))
    if client in CLIENTS
]


@pytest.mark.parametrize(("heading", "client", "text"), CASES, ids=[f"{case[1]}-{case[0][:24]}" for case in CASES])
def test_a_client_shows_what_is_documented(pair: Pair, heading: str, client: str, text: str) -> None:
    command = CLIENTS[client](SITUATIONS[heading](pair))
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, cwd=pair.folder
    )
    shown = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    assert any(words in shown for words in inline_code(text)), shown


# It calls the server by its address, and has no option for another name.
@pytest.mark.parametrize("heading", [heading for heading in SITUATIONS if heading != "The name is another one"])
def test_our_own_command_gives_the_reason_that_is_documented(pair: Pair, heading: str) -> None:
    documented = [inline_code(text)[0] for client, text in rows(section(DOCUMENT, heading)) if client == "handclasp"]
    if not documented:
        return
    attempt = SITUATIONS[heading](pair)
    own = ("--cert", attempt.cert, "--key", attempt.key) if attempt.cert and attempt.key else ()
    ran = pair.run("run", "echo", "--address", attempt.address, "--ca", attempt.ca or "", *own)
    assert ran.errors.startswith(f"{documented[0]}: "), ran
