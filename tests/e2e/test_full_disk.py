"""A disk that is full: what is there goes on to be served, what is acknowledged stays, and nothing ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError, Unavailable
from tests.e2e.clients import administrator, client_of
from tests.e2e.processes import Deployment, Process, run_command, wait_until
from tests.e2e.test_crash import check_integrity, echo, is_allowed

# More than an emptied log of SQLite has room for, so that not all of them find some.
ISSUES = 400


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 12 MiB in a folder that is made for it."""
    folder.mkdir()
    try:
        options = ("-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs")
        mounted = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command to mount file systems")
    if mounted.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """The file that takes up all that is free; deleting it makes room again."""
    filling = folder / "filling"
    descriptor = os.open(filling, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            _write_without_end(descriptor)
    finally:
        os.close(descriptor)
    return filling


def _write_without_end(descriptor: int) -> None:
    while True:
        os.write(descriptor, bytes(4096))


@dataclass
class Site:
    """A certificate service with its data folder, log included, on a small disk, and an execution server elsewhere."""

    deployment: Deployment
    issued: list[Certificate] = field(default_factory=list)
    revoked: list[Certificate] = field(default_factory=list)

    def start(self) -> Process:
        log = self.deployment.data_dir / "service.log"
        return self.deployment.certificates({"HANDCLASP_CERTIFICATES_LOG__FILE": str(log)})

    def readiness(self) -> tuple[int, str]:
        """The status of `/readyz`, and what it says."""
        ready = json.loads((self.deployment.folder / "certificates-ready.json").read_text(encoding="utf-8"))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ready['health_port']}/readyz", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def says_full(self) -> bool:
        status, text = self.readiness()
        return status == 503 and "the disk of the database is full" in text

    async def issue(self, admin: HandclaspClient) -> None:
        csr = make_key_and_request("alice").csr_pem.decode()
        answer = await admin.certificates.IssueCertificate(
            messages.IssueCertificateRequest(user="users/alice", csr_pem=csr)
        )
        self.issued.append(answer.certificate)

    async def revoke(self, admin: HandclaspClient) -> None:
        """The last one that was issued."""
        certificate = self.issued[-1]
        await admin.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=certificate.name))
        self.revoked.append(self.issued.pop())

    async def refusal(self, change: Callable[[], Awaitable[object]]) -> HandclaspError:
        """The first one: what the database's log has of the disk already is used up before."""
        for _ in range(ISSUES):
            try:
                await change()
            except HandclaspError as error:
                return error
        raise AssertionError("a disk that is full took all of it")

    async def goes_on(self) -> None:
        """Whatever needs no write: reads, decisions by direct question, and calls that rest on a lease. All of them
        know of everything that was acknowledged, and of nothing that was refused."""
        deployment = self.deployment
        async with (
            administrator(deployment) as admin,
            client_of(deployment, deployment.identity("executions")) as relying_party,
            client_of(deployment, deployment.folder / "alice") as alice,
        ):
            for certificate in self.issued:
                get = messages.GetCertificateRequest(name=certificate.name)
                assert await admin.certificates.GetCertificate(get) == certificate
            assert await is_allowed(relying_party, self.issued[-1])
            for certificate in self.revoked:
                assert not await is_allowed(relying_party, certificate)
            for attempt in range(50):  # An execution server that was cut off finds its way back in a moment.
                if await echo(alice, attempt) == attempt:
                    return
                await asyncio.sleep(0.2)
        raise AssertionError("no call was decided")

    async def changes_are_refused(self) -> None:
        async with administrator(self.deployment) as admin:
            for change in (partial(self.issue, admin), partial(self.revoke, admin)):
                error = await self.refusal(change)
                assert isinstance(error, Unavailable)
                assert error.reason == "STORAGE_UNAVAILABLE"
                assert "the disk of the database is full" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is small enough to fill")
@pytest.mark.parametrize("end", [Process.kill, Process.stop], ids=["killed", "stopped"])
def test_what_is_there_is_served_on_a_full_disk_and_after_a_restart_on_it(
    folder: Path, end: Callable[[Process], object]
) -> None:
    deployment = Deployment(folder)
    site = Site(deployment)
    with small_disk(deployment.data_dir), contextlib.ExitStack() as running:
        service = running.enter_context(site.start())
        deployment.issue_execution_identity()
        deployment.run("user", "create", "alice", "--profile", "regular-user").json()
        deployment.run("cert", "issue", "--user", "alice", "--out", folder / "alice").json()
        running.enter_context(deployment.execution_server())
        asyncio.run(_issue_some(site))
        asyncio.run(site.goes_on())
        assert site.readiness()[0] == 200

        filling = fill(deployment.data_dir)
        wait_until(site.says_full, "readiness says that the disk is full, though nobody has written")
        asyncio.run(site.changes_are_refused())
        asyncio.run(site.goes_on())
        assert site.says_full()

        filling.unlink()
        wait_until(lambda: site.readiness()[0] == 200, "it is ready again, by itself")
        asyncio.run(_issue_some(site))

        filling = fill(deployment.data_dir)
        end(service)
        check_integrity(deployment.data_dir / "handclasp.db", folder / "copy-full")
        fill(deployment.data_dir)
        made = {path: path.stat().st_mtime_ns for path in deployment.data_dir.rglob("*.[tp][oe]m*")}
        service = running.enter_context(site.start())
        assert {path: path.stat().st_mtime_ns for path in made} == made
        wait_until(site.says_full, "readiness says so after a restart, too")
        asyncio.run(site.goes_on())
        asyncio.run(site.changes_are_refused())
        asyncio.run(site.goes_on())

        filling.unlink()
        wait_until(lambda: site.readiness()[0] == 200, "it is ready again after a restart, too")
        asyncio.run(_issue_some(site))
        asyncio.run(site.goes_on())
        assert service.popen.poll() is None
        assert "Traceback" not in service.errors
        service.kill()
        check_integrity(deployment.data_dir / "handclasp.db", folder / "copy")


async def _issue_some(site: Site) -> None:
    async with administrator(site.deployment) as admin:
        for _ in range(5):
            await site.issue(admin)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is small enough to fill")
def test_a_disk_that_fills_up_while_the_service_is_stopped(folder: Path) -> None:
    deployment = Deployment(folder)
    site = Site(deployment)
    with small_disk(deployment.data_dir):
        with site.start():
            pass
        filling = fill(deployment.data_dir)
        with site.start():
            wait_until(site.says_full, "readiness says that the disk is full")
            deployment.run("user", "list").json()
            filling.unlink()
            wait_until(lambda: site.readiness()[0] == 200, "it is ready again, by itself")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that cannot be written to")
def test_a_data_folder_that_cannot_be_written_to_is_refused_clearly(folder: Path) -> None:
    deployment = Deployment(folder)
    with small_disk(deployment.data_dir):
        with Site(deployment).start():
            pass
        subprocess.run(["mount", "-o", "remount,ro", deployment.data_dir], check=True)
        finished = run_command("serve", "certificates", "--data-dir", deployment.data_dir, folder=folder)
        assert finished.reason(1) == "START_NOT_POSSIBLE"
        assert "Read-only file system" in finished.errors
