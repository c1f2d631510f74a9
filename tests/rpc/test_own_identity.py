"""A relying party renews its own certificate while it runs, and nobody notices."""

from __future__ import annotations

import asyncio
import ssl
import stat
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509

from handclasp.relying_party import Options, RelyingParty, RenewalTimes
from handclasp.relying_party.identity_files import FilesHeldError, IdentityFiles
from handclasp.serving.tls import TlsIdentity
from tests.rpc.execution_harness import until
from tests.rpc.party_lab import Shop, running_shop

DAYS = 86400
TIMES = RenewalTimes(check_interval=0.05, first_retry=0.1)


@dataclass
class Wall:
    """The real time, and so many days more."""

    days: float = 0

    def __call__(self) -> float:
        return time.time() + self.days * DAYS


@asynccontextmanager
async def renewing_shop(folder: Path) -> AsyncIterator[tuple[Shop, Wall]]:
    wall = Wall()
    async with running_shop(folder, options=Options(wall_clock=wall, renewal=TIMES)) as shop:
        shop.service.lifetime = timedelta(days=400)
        await until(lambda: shop.party.ready)
        yield shop, wall


def shown_to_clients(shop: Shop) -> x509.Certificate:
    """The server certificate of a new handshake."""
    context = ssl.create_default_context(cadata=shop.ca.pem)
    (shop.folder / "client.pem").write_text(shop.alice.pem + shop.alice.key_pem)
    context.load_cert_chain(shop.folder / "client.pem")
    context.set_alpn_protocols(["h2"])
    import socket  # noqa: PLC0415

    with (
        socket.create_connection(("127.0.0.1", shop.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def shown_to_the_service(shop: Shop) -> x509.Certificate:
    """The client certificate of the newest stream."""
    context: Any = shop.watches.stream.context
    return x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])


async def test_it_is_renewed_at_two_thirds_of_its_life_and_nothing_fails(tmp_path: Path) -> None:
    async with renewing_shop(tmp_path) as (shop, wall):
        assert await asyncio.to_thread(shown_to_clients, shop) == shop.own.certificate
        wall.days = 19  # of 31, one of which is over
        await asyncio.sleep(0.2)
        assert not shop.service.renewals
        lapses = calls = 0
        wall.days = 20.5
        with structlog.testing.capture_logs() as lines:
            while len(shop.watches.streams) < 2 or not shop.watches.stream.pings:
                await shop.unary()
                calls += 1
                lapses += not shop.party.ready
        for _ in range(20):
            await shop.unary()
        assert calls > 3
        assert lapses == 0
        assert [request.name for request in shop.service.renewals] == ["certificates/-"]
        renewed = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
        assert renewed != shop.own.certificate
        assert await asyncio.to_thread(shown_to_clients, shop) == renewed
        assert shown_to_the_service(shop) == renewed
        assert renewed.public_key() != shop.own.certificate.public_key()
        assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
        TlsIdentity((tmp_path / "key.pem").read_bytes(), (tmp_path / "cert.pem").read_bytes()).check()
        assert not [path for path in tmp_path.iterdir() if ".next" in path.name]  # noqa: ASYNC240
        assert "identity_renewed" in [line["event"] for line in lines]
        assert "PRIVATE KEY" not in str(lines)
        # Once, and the next time at two thirds of the new one's life.
        assert len(shop.service.renewals) == 1
        assert shop.watches.stream.start.process_id == shop.watches.streams[0].start.process_id
        # The same request is not asked about anew for it.
        assert len([request for request in shop.service.checked if request.resource == "orders/get"]) == 1


async def test_questions_go_over_the_new_connection(tmp_path: Path) -> None:
    async with renewing_shop(tmp_path) as (shop, wall):
        wall.days = 20.5
        await until(lambda: len(shop.watches.streams) == 2)
        assert await shop.unary("About", b"9")


async def test_a_renewal_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with renewing_shop(tmp_path) as (shop, wall):
        shop.service.renewal_failure = grpc.StatusCode.UNAVAILABLE
        wall.days = 20.5
        await until(lambda: len(shop.service.renewals) >= 2)
        # The answer may have been lost: the same request, so that no second certificate is issued for it.
        assert len({(item.request_id, item.csr_pem) for item in shop.service.renewals}) == 1
        shop.service.renewal_failure = grpc.StatusCode.FAILED_PRECONDITION
        await until(lambda: len({item.request_id for item in shop.service.renewals}) == 2)
        shop.service.renewal_failure = None
        await until(lambda: len(shop.watches.streams) == 2)
        await shop.unary()


async def test_an_identity_that_cannot_be_written_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: IdentityFiles, _identity: TlsIdentity) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IdentityFiles, "replace", full)
    async with renewing_shop(tmp_path) as (shop, wall):
        with structlog.testing.capture_logs() as lines:
            wall.days = 20.5
            await until(lambda: len(shop.watches.streams) == 2)
        assert "identity_not_written" in [line["event"] for line in lines]
        assert (tmp_path / "cert.pem").read_text() == shop.own.pem
        assert shown_to_the_service(shop) != shop.own.certificate
        await shop.unary()


async def test_others_are_kept_from_the_files_until_they_are_written_also_by_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    replace = IdentityFiles.replace

    def slow(files: IdentityFiles, identity: TlsIdentity) -> None:
        writing.set()
        go_on.wait(20)
        replace(files, identity)

    monkeypatch.setattr(IdentityFiles, "replace", slow)
    others = IdentityFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with renewing_shop(tmp_path) as (shop, wall):
        wall.days = 20.5
        await until(writing.is_set)
        stopping = asyncio.create_task(shop.party.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        try:
            with pytest.raises(FilesHeldError), others.held():
                pass
        finally:
            go_on.set()
            await stopping
        assert others.read().chain_pem != shop.own.pem.encode()


async def test_of_several_processes_with_the_same_files_one_renews_and_the_others_follow(tmp_path: Path) -> None:
    async with renewing_shop(tmp_path) as (shop, wall):
        shop.service.delay = 0.2  # so that the others become due meanwhile
        options = Options(wall_clock=wall, renewal=TIMES)
        files = {"ca_file": tmp_path / "ca.pem", "certificate": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
        async with RelyingParty(shop.party._addresses, **files, options=options) as other:
            await until(lambda: other.ready)
            wall.days = 20.5
            parties = (shop.party, other)
            await until(lambda: all(party._trust._identity.chain_pem != shop.own.pem.encode() for party in parties))
            assert shop.party._trust._identity == other._trust._identity
            assert IdentityFiles(files["certificate"], files["key"]).read() == other._trust._identity
            assert len(shop.service.renewals) == 1
            await asyncio.sleep(0.3)
            assert len(shop.service.renewals) == 1
