"""The services by other people's tools: grpcurl, `buf curl`, openssl."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.processes import Pair
from tests.support.tools import require_tool

ECHO = "handclasp.integrations.v1.IntegrationService/ExecuteIntegration"
BODY = '{"name": "integrations/echo", "input": {"hello": "world"}}'
SERVICES = {
    "certificates_mtls": {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "handclasp.accounts.v1.AccountService",
        "handclasp.authorization.v1.AuthorizationService",
        "handclasp.certificates.v1.CertificateService",
    },
    "executions": {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "handclasp.integrations.v1.IntegrationService",
    },
}


@dataclass(frozen=True)
class Holder:
    """Somebody with an issued certificate."""

    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def holder(pair: Pair) -> Holder:
    pair.json("user", "create", "by-hand", "--profile", "regular-user")
    issued = pair.json("cert", "issue", "--user", "by-hand", "--out", pair.folder / "by-hand")
    return Holder(Path(issued["certificate_file"]), Path(issued["key_file"]))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a tool without input. What openssl shows may be no text."""
    return subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=30,
        check=False,
    )


def grpcurl(pair: Pair, holder: Holder, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ("-cert", holder.certificate, "-key", holder.key)
    return run(require_tool("grpcurl"), "-cacert", pair.ready["ca_file"], *identity, *arguments)


def buf_curl(pair: Pair, holder: Holder | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = () if holder is None else ("--cert", holder.certificate, "--key", holder.key)
    tls = ("--cacert", pair.ready["ca_file"], *identity)
    return run(require_tool("buf"), "curl", "--protocol", "grpc", *tls, *arguments)


@pytest.mark.parametrize("listener", SERVICES)
def test_grpcurl_lists_the_services(pair: Pair, holder: Holder, listener: str) -> None:
    done = grpcurl(pair, holder, pair.ready[listener], "list")
    assert (set(done.stdout.split()), done.stderr) == (SERVICES[listener], "")


def test_grpcurl_runs_echo_and_asks_for_health(pair: Pair, holder: Holder) -> None:
    done = grpcurl(pair, holder, "-d", BODY, pair.ready["executions"], ECHO)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["output"] == {"hello": "world"}
    done = grpcurl(pair, holder, pair.ready["executions"], "grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}


@pytest.mark.parametrize("listener", SERVICES)
def test_buf_lists_the_services(pair: Pair, holder: Holder, listener: str) -> None:
    done = buf_curl(pair, holder, "--list-services", f"https://{pair.ready[listener]}")
    assert set(done.stdout.split()) == SERVICES[listener], done.stderr


def test_buf_runs_echo(pair: Pair, holder: Holder) -> None:
    done = buf_curl(pair, holder, "-d", BODY, f"https://{pair.ready['executions']}/{ECHO}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["output"] == {"hello": "world"}


def test_buf_without_a_certificate_gets_nowhere(pair: Pair) -> None:
    done = buf_curl(pair, None, "-d", BODY, f"https://{pair.ready['executions']}/{ECHO}")
    assert done.returncode != 0
    assert done.stdout == ""


class TestOpenssl:
    """What the TLS layer of 8443 says, to whoever knocks."""

    @staticmethod
    def s_client(address: str, pair: Pair, *arguments: str | Path) -> tuple[int, str]:
        command = (require_tool("openssl"), "s_client", "-connect", address, "-alpn", "h2")
        done = run(*command, "-CAfile", pair.ready["ca_file"], "-verify_return_error", *arguments)
        return done.returncode, done.stdout + done.stderr

    @pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
    def test_a_client_certificate_is_demanded(self, pair: Pair, version: str) -> None:
        # What a CertificateRequest has (RFC 8446, section 4.3.2), is printed only if one came. gRPC sends no names of
        # CAs in it.
        request = "Requested Signature Algorithms: ECDSA+SHA256"
        for listener, demanded in (("executions", True), ("certificates_mtls", True), ("certificates_tls", False)):
            _, said = self.s_client(pair.ready[listener], pair, version)
            assert "Verification: OK" in said, said
            assert (request in said) is demanded, said

    def test_without_one_the_connection_is_closed(self, pair: Pair, holder: Holder) -> None:
        # In TLS 1.2 the client hears of it in the handshake; in TLS 1.3 when it reads for the first time.
        status, said = self.s_client(pair.ready["executions"], pair, "-tls1_2")
        assert status != 0, said
        preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        refused = self.read_after(pair, preface)
        assert b"\x00\x00\x00" not in refused  # not one HTTP/2 frame
        answered = self.read_after(pair, preface, "-cert", str(holder.certificate), "-key", str(holder.key))
        assert answered[3:4] == b"\x04"  # SETTINGS, with which every HTTP/2 server begins

    @staticmethod
    def read_after(pair: Pair, preface: str, *identity: str) -> bytes:
        """What comes back on a TLS 1.3 connection until it is closed, or nothing has come for two seconds."""
        command = (require_tool("openssl"), "s_client", "-quiet", "-tls1_3", "-alpn", "h2", *identity)
        client = subprocess.Popen(
            [*command, "-connect", pair.ready["executions"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with client:
            try:
                return client.communicate(preface.encode(), timeout=2)[0]
            except subprocess.TimeoutExpired:
                client.kill()
                return client.communicate()[0]

    @pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
    def test_old_versions_of_tls_are_refused(self, pair: Pair, holder: Holder, version: str) -> None:
        identity = ("-cert", holder.certificate, "-key", holder.key)
        # Security level 0, since this client would not offer the old versions otherwise.
        _, said = self.s_client(pair.ready["executions"], pair, version, "-cipher", "ALL:@SECLEVEL=0", *identity)
        # gRPC passes the alert on as little as in any other case: it answers a ClientHello by closing.
        assert re.search(r"has read [07] bytes and written [1-9]", said), said
        assert "Cipher is (NONE)" in said
        _, said = self.s_client(pair.ready["executions"], pair, "-tls1_2", "-cipher", "ALL:@SECLEVEL=0", *identity)
        assert "New, TLSv1.2, Cipher is ECDHE" in said
