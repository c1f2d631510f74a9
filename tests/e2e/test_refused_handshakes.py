"""Each TLS handshake that is refused leaves a trace that says why."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.e2e.processes import Pair, environment, running_up, wait_until
from tests.support.outside_ca import SERVER_AUTH, Issued, OutsideCA, uri

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("handshakes")
    variables = environment(HANDCLASP_CERTIFICATES_LOG__FORMAT="json", HANDCLASP_EXECUTIONS_LOG__FORMAT="json")
    with running_up(folder, variables=variables) as running:
        (folder / "anchor.pem").write_text(CA.pem, encoding="utf-8")
        running.json("trust", "add", folder / "anchor.pem")
        yield running


CA = OutsideCA("Partner CA")


def knock(address: str, client: Issued | None, folder: Path, **how: object) -> None:
    """A handshake by OpenSSL, and whatever comes of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if how.get("distrusting") else ssl.CERT_NONE
    if how.get("old"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    if client is not None:
        files = folder / "client.pem", folder / "client.key"
        files[0].write_text(client.pem, encoding="utf-8")
        files[1].write_text(client.key_pem, encoding="utf-8")
        context.load_cert_chain(*files)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=host) as connection:
                connection.recv(1)
        except OSError:
            pass


def say(address: str, data: bytes) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(data)
        with contextlib.suppress(OSError):
            raw.recv(100)


def long_chain() -> Issued:
    return CA.issue(alternative=[uri(f"spiffe://example.org/{number}/{'x' * 200}") for number in range(60)])


CASES: dict[str, Callable[[], Issued | None]] = {
    "NO_CERTIFICATE": lambda: None,
    "UNKNOWN_CA": lambda: OutsideCA("Stranger").issue(),
    "EXPIRED": lambda: CA.issue(not_before=CA.now - timedelta(days=2), not_after=CA.now - timedelta(hours=1)),
    "NOT_YET_VALID": lambda: CA.issue(not_before=CA.now + timedelta(days=1)),
    "WRONG_PURPOSE": lambda: CA.issue(purposes=(SERVER_AUTH,)),
    "CHAIN_INVALID": lambda: CA.intermediate("A", path_length=0).intermediate("B").issue(),
    "TOO_LONG": long_chain,
}


def traces(pair: Pair, service: str) -> list[tuple[str, str, int]]:
    """Reason, listener and count of each refused handshake in a log."""
    text = (pair.data_dir / "logs" / f"{service}.log").read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    return [
        (event["reason"], event["listener"], event.get("count", 1))
        for event in events
        if event["event"] == "handshake_refused"
    ]


@pytest.mark.parametrize("reason", CASES)
def test_a_refused_certificate(pair: Pair, tmp_path: Path, reason: str) -> None:
    knock(pair.ready["executions"], CASES[reason](), tmp_path)
    wait_until(lambda: (reason, "executions", 1) in traces(pair, "executions"), reason)


def test_a_key_that_grpc_does_not_take_counts_as_no_certificate(pair: Pair, tmp_path: Path) -> None:
    client = CA.issue(key=ed25519.Ed25519PrivateKey.generate())
    knock(pair.ready["certificates_mtls"], client, tmp_path)
    wait_until(
        lambda: ("NO_CERTIFICATE", "certificates_mtls", 1) in traces(pair, "certificates"), "an Ed25519 certificate"
    )


@pytest.mark.parametrize(
    ("reason", "meet"),
    [
        ("PROTOCOL", lambda address, folder: knock(address, None, folder, old=True)),
        ("CLIENT_BROKE_OFF", lambda address, folder: knock(address, None, folder, distrusting=True)),
        ("NOT_TLS", lambda address, _: say(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
    ],
)
def test_a_handshake_that_has_to_do_with_no_certificate(
    pair: Pair, tmp_path: Path, reason: str, meet: Callable[[str, Path], None]
) -> None:
    meet(pair.ready["executions"], tmp_path)
    wait_until(lambda: (reason, "executions", 1) in traces(pair, "executions"), reason)


def test_a_flood_is_a_few_lines_and_standard_error_has_none(pair: Pair, tmp_path: Path) -> None:
    before = len(traces(pair, "executions"))
    for _ in range(50):
        say(pair.ready["executions"], b"no TLS at all\r\n\r\n")
    knock(pair.ready["certificates_tls"], None, tmp_path, distrusting=True)
    wait_until(lambda: bool(traces(pair, "certificates")), "the last one")
    assert len(traces(pair, "executions")) <= before + 1
    assert not re.search(r"ssl_transport|Handshake|Log level", pair.process.errors)
    for service in ("certificates", "executions"):
        log = (pair.data_dir / "logs" / f"{service}.log").read_text(encoding="utf-8")
        assert "ssl_transport" not in log


def test_explain_without_an_id_shows_those_of_every_process(pair: Pair, tmp_path: Path) -> None:
    knock(pair.ready["executions"], CASES["NOT_YET_VALID"](), tmp_path)
    knock(pair.ready["certificates_mtls"], CASES["WRONG_PURPOSE"](), tmp_path)

    def shown() -> set[tuple[str, str, str, str]]:
        refusals = pair.json("explain", "--since", "10m")["refusals"]
        return {(one["kind"], one["reason"], one["listener"], one["relying_party"]) for one in refusals}

    wait_until(
        lambda: (
            {
                ("KIND_HANDSHAKE", "NOT_YET_VALID", "executions", "users/execution-server"),
                ("KIND_HANDSHAKE", "WRONG_PURPOSE", "certificates_mtls", ""),
            }
            <= shown()
        ),
        "both are listed",
    )
    assert "NOT_YET_VALID" in pair.run("explain").out


def test_a_relay_that_is_killed_is_started_again_and_nothing_is_lost(pair: Pair, tmp_path: Path) -> None:
    service = pair.service("executions")
    (relay,) = (child for child in service.children() if any("stderr_relay" in word for word in child.cmdline()))
    relay.kill()
    before = sum(count for reason, _, count in traces(pair, "executions") if reason == "PROTOCOL")
    knock(pair.ready["executions"], None, tmp_path, old=True)
    wait_until(
        lambda: "handshake_watch_ended" in (pair.data_dir / "logs" / "executions.log").read_text(), "it is missed"
    )

    def known() -> int:
        refusals = pair.json("explain", "--limit", "100")["refusals"]
        return sum(int(one["count"]) for one in refusals if one["reason"] == "PROTOCOL" and one["relying_party"])

    wait_until(lambda: known() > before, "what happened meanwhile is told of")
    assert service.is_running()
