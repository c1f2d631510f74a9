"""Shows what Handclasp does, with the real thing: both services, real certificates, and calls over mutual TLS.

`make demo` runs it. Everything is in a temporary folder, on free ports of this machine, and gone at the end. Each step
is a line, with a tick if it came out as it must, and the exit status is 0 only if all did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

# gRPC's core writes a line to standard error for each handshake that fails, and some here are meant to.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rich.console import Console

from handclasp.client.channels import open_channel
from handclasp.client.credentials import TlsMaterial
from handclasp.errors import HandclaspError, Reason
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from handclasp.transport.lifecycle import PARENT_PIPE_VARIABLE

HANDCLASP = Path(sys.executable).parent / "handclasp"
START_TIMEOUT = 90.0  # seconds, for the first start on a slow machine
STOP_TIMEOUT = 30.0
TRUST_TIMEOUT = 20.0  # for the execution server to read the trust bundle again
ORDERS = 1000
CURRENCIES = ("CHF", "EUR", "JPY", "USD")
CUSTOMERS = ("Ada's Bicycles", "Grünwald & Söhne", "Northwind", "港南貿易")

Totals = dict[tuple[str, str], Decimal]


class DemoError(Exception):
    """A step did not come out as it must. The message says what was seen instead."""


class Report:
    """Prints a line for each step."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        try:
            "✓✗".encode(sys.stdout.encoding or "ascii")
            self._done, self._failed = "✓", "✗"
        except UnicodeEncodeError:
            self._done, self._failed = "ok  ", "FAIL"

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """A step; what was seen, in a few words each, goes onto the list."""
        seen: list[str] = []
        started = time.perf_counter()
        status = self._console.status(title) if self._console.is_terminal else contextlib.nullcontext()
        try:
            with status:
                yield seen
        except BaseException:  # being stopped half-way, too
            self._line("red", self._failed, title, started, [])
            raise
        self._line("green", self._done, title, started, seen)

    def failure(self, error: Exception, logs: Path) -> None:
        """Says what went wrong, and shows the end of each log."""
        self._print(f"\n{error}", style="red")
        for log in sorted(logs.glob("**/*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            if lines:
                self._print(f"\nThe end of {log.name}:", style="bold")
                self._print("\n".join(lines))

    def say(self, text: str) -> None:
        """A line that is no step."""
        self._print(text)

    def _line(self, colour: str, mark: str, title: str, started: float, seen: list[str]) -> None:
        taken = time.perf_counter() - started
        length = f"{taken * 1000:4.0f} ms" if taken < 1 else f"{taken:5.1f} s"
        self._console.print(f"[{colour}]{mark}[/] ", end="")
        self._print(f"{title:<56} {length:>7}", end="  " if seen else "\n")
        if seen:
            self._print("; ".join(seen), style="dim")

    def _print(self, text: str, *, style: str | None = None, end: str = "\n") -> None:
        # No markup, since what is printed may have square brackets; not wrapped, so that it can be copied.
        self._console.print(text, style=style, end=end, markup=False, soft_wrap=True)


@dataclass
class Services:
    """Both services as `handclasp up` runs them, and the `handclasp` command as their administrator."""

    folder: Path
    addresses: Mapping[str, str] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _pipe: int = -1

    @property
    def ca_pem(self) -> bytes:
        return Path(self.addresses["ca_file"]).read_bytes()

    @property
    def executions(self) -> str:
        return self.addresses["executions"]

    async def start(self) -> None:
        ready_file = self.folder / "ready.json"
        # Should this process be killed, the pipe closes, and the services stop.
        reading, self._pipe = os.pipe()
        with (self.folder / "up.log").open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                HANDCLASP,
                "up",
                *("--data-dir", self.folder / "data", "--free-ports", "--ready-file", ready_file),
                cwd=self.folder,
                env={**self._environment(), PARENT_PIPE_VARIABLE: str(reading)},
                pass_fds=[reading],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,  # the administrator's password is there
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for this process, which then stops it
            )
        os.close(reading)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not ready_file.exists():
                    if self._process.returncode is not None:
                        raise DemoError(f"`handclasp up` ended with status {self._process.returncode}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DemoError(f"the services were not ready within {START_TIMEOUT:.0f} s") from None
        self.addresses = json.loads(ready_file.read_text(encoding="utf-8"))

    async def stop(self) -> int | None:
        """Stops both; the exit status of `handclasp up`, or None if it was not running."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            os.close(self._pipe)
        return process.returncode

    async def command(self, *arguments: str | Path) -> dict[str, Any]:
        """Runs `handclasp ARGUMENTS -o json` as the administrator; what it prints."""
        process = await asyncio.create_subprocess_exec(
            HANDCLASP,
            *arguments,
            *("-o", "json", "--context", self.addresses["context_file"]),
            cwd=self.folder,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            line = " ".join(map(str, arguments))
            raise DemoError(f"`handclasp {line}` ended with status {process.returncode}: {errors.decode().strip()}")
        answer: dict[str, Any] = json.loads(printed)
        return answer

    @contextlib.asynccontextmanager
    async def caller(self, certificate: bytes | None = None, key: bytes | None = None) -> AsyncIterator[Caller]:
        """Somebody who calls the execution server on a connection of their own."""
        async with open_channel(self.executions, TlsMaterial(self.ca_pem, certificate, key), timeout=30.0) as channel:
            yield Caller(IntegrationServiceStub(channel))

    @staticmethod
    def _environment() -> dict[str, str]:
        """This process's, without settings that were meant for another installation."""
        return {name: value for name, value in os.environ.items() if not name.startswith("HANDCLASP_")}


@dataclass(frozen=True)
class Caller:
    """Runs `orders.summarize`."""

    stub: IntegrationServiceStub

    async def summarize(self, orders: str, expected: Totals) -> list[str]:
        """Runs it, and compares its answer with totals that were added up here.

        Raises:
            HandclaspError: refused.
            DemoError: another answer.
        """
        request = ExecuteIntegrationRequest(name="integrations/orders.summarize", input_json=orders)
        answer = json.loads((await self.stub.ExecuteIntegration(request)).output_json)
        totals = {(line["customer"], line["currency"]): Decimal(line["total"]) for line in answer["totals"]}
        if totals != expected or answer["order_count"] != ORDERS:
            raise DemoError(f"the totals are not those that were expected: {answer}")
        return [f"{ORDERS} orders, {answer['line_count']} lines", f"{len(totals)} totals, each exact"]

    async def refused(self, orders: str, *reasons: Reason) -> HandclaspError:
        """Tries to run it; the refusal.

        Raises:
            DemoError: it was not refused, or for another reason.
        """
        request = ExecuteIntegrationRequest(name="integrations/orders.summarize", input_json=orders)
        try:
            await self.stub.ExecuteIntegration(request)
        except HandclaspError as error:
            if error.reason not in reasons:
                raise DemoError(f"refused, but for another reason than expected: {error.reason}: {error}") from error
            return error
        raise DemoError("it was not refused")


class OutsideCA:
    """Somebody else's CA, such as a partner's: P-256, valid for a day."""

    def __init__(self, common_name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(common_name)
        self.certificate = self._sign(self._name, self._key.public_key(), ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, common_name: str) -> tuple[bytes, bytes]:
        """A client certificate and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name), key.public_key(), ca=False)
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), key_pem

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        own = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def make_orders() -> tuple[str, Totals]:
    """A thousand orders as JSON, and what they come to by customer and currency."""
    orders, totals = [], defaultdict[tuple[str, str], Decimal](Decimal)
    for number in range(ORDERS):
        customer = CUSTOMERS[number * 7 % len(CUSTOMERS)]
        lines = []
        for line in range(1 + number % 4):
            currency = CURRENCIES[(number // 3 + line) % len(CURRENCIES)]
            quantity = 1 + (number + line) % 9
            # Prices to a hundredth of a cent, which binary fractions do not carry; whole ones in yen.
            price = Decimal((number * 7919 + line * 104_729) % 1_000_000).scaleb(0 if currency == "JPY" else -4)
            lines.append({"sku": f"A-{line}", "quantity": quantity, "unit_price": str(price), "currency": currency})
            totals[customer, currency] += quantity * price
        orders.append({"customer": customer, "lines": lines})
    return json.dumps({"orders": orders}, ensure_ascii=False), dict(totals)


def identity(issued: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Certificate and key that `handclasp cert issue` wrote."""
    return Path(issued["certificate_file"]).read_bytes(), Path(issued["key_file"]).read_bytes()


async def demonstrate(report: Report, services: Services) -> None:
    """All the steps, in order.

    Raises:
        DemoError, HandclaspError: one of them did not come out as it must; those after it were not tried.
    """
    folder = services.folder
    orders_file = folder / "orders.json"
    orders, expected = make_orders()
    orders_file.write_text(orders, encoding="utf-8")

    with report.step("Both services start") as seen:
        await services.start()
        seen.extend(
            (
                f"certificates on {services.addresses['certificates_mtls']}",
                f"integrations on {services.executions}",
            )
        )

    with report.step("User alice is created") as seen:
        user = await services.command("user", "create", "alice", "--profile", "regular-user")
        seen.append(f"{user['name']}, {', '.join(user['access_profiles'])}")
    with report.step("alice is issued a certificate") as seen:
        issued = await services.command("cert", "issue", "--user", "alice", "--out", folder / "alice")
        seen.append(f"expires {issued['not_after'][:10]}; its key was made here, and stayed here")
    alice = identity(issued)

    async with services.caller(*alice) as alice_calls:
        with report.step("alice runs orders.summarize over mutual TLS") as seen:
            seen.extend(await alice_calls.summarize(orders_file.read_text(encoding="utf-8"), expected))

        bob = await demonstrate_outside_ca(report, services, orders, expected)
        await demonstrate_refusals(report, services, orders)

        with report.step("alice's certificate is revoked") as seen:
            revoked = await services.command("cert", "revoke", issued["id"], "--reason", "key-compromise")
            seen.append(f"{revoked['state'].removeprefix('STATE_')}, {revoked['revocation']['reason']}")
        with report.step("Refused: alice's next call, on the connection she had") as seen:
            refusal = await alice_calls.refused(orders, Reason.CERTIFICATE_NOT_ACCEPTED)
            seen.append(refusal.reason)

    async with services.caller(*alice) as alice_calls, services.caller(*bob) as bob_calls:
        with report.step("Refused: alice on a new connection") as seen:
            refusal = await alice_calls.refused(orders, Reason.CERTIFICATE_NOT_ACCEPTED)
            seen.append(refusal.reason)
        with report.step("bob's calls go on") as seen:
            seen.extend(await bob_calls.summarize(orders, expected))

    with report.step("Both services stop") as seen:
        status = await services.stop()
        if status != 0:
            raise DemoError(f"`handclasp up` ended with status {status}")
        seen.append("exit status 0")


async def demonstrate_outside_ca(
    report: Report, services: Services, orders: str, expected: Totals
) -> tuple[bytes, bytes]:
    """An outside CA's certificate is uploaded for bob, and he runs with it. Returns it, and its key."""
    partner_ca = OutsideCA("Partner CA")
    bob = partner_ca.issue("Robert of Partner Ltd")
    ca_file, certificate_file = services.folder / "partner-ca.pem", services.folder / "bob.pem"
    ca_file.write_bytes(partner_ca.pem)
    certificate_file.write_bytes(bob[0])
    with report.step("An outside CA becomes a trust anchor") as seen:
        anchor = await services.command("trust", "add", ca_file, "--display-name", "Partner Ltd")
        seen.append(anchor["subject"])
    with report.step("User bob is created"):
        await services.command("user", "create", "bob", "--profile", "regular-user")
    with report.step("A certificate of that CA is uploaded for bob") as seen:
        uploaded = await services.command("cert", "upload", "--user", "bob", certificate_file)
        seen.append(f"{uploaded['subject']}, issued by {uploaded['issuer']}")
    with report.step("bob runs orders.summarize with it") as seen:
        deadline = time.monotonic() + TRUST_TIMEOUT
        while True:
            async with services.caller(*bob) as bob_calls:
                try:
                    seen.extend(await bob_calls.summarize(orders, expected))
                    break
                except HandclaspError as error:
                    # The execution server reads the trust bundle every two seconds.
                    if error.reason != Reason.HANDSHAKE_REFUSED or time.monotonic() > deadline:
                        raise
            await asyncio.sleep(0.1)
    return bob


async def demonstrate_refusals(report: Report, services: Services, orders: str) -> None:
    """Callers who must not get in."""
    with report.step("Refused: a caller without a certificate") as seen:
        async with services.caller() as nobody:
            refusal = await nobody.refused(orders, Reason.HANDSHAKE_REFUSED)
        seen.append(refusal.reason)
    with report.step("Refused: a certificate of a CA that nobody trusts") as seen:
        async with services.caller(*OutsideCA("Partner CA").issue("alice")) as foreigner:
            refusal = await foreigner.refused(orders, Reason.HANDSHAKE_REFUSED)
        seen.append(refusal.reason)

    with report.step("carol is created, and may not run integrations") as seen:
        await services.command("profile", "create", "self-service", "--grant", "MANAGE_PERSONAL_SETUP")
        await services.command("user", "create", "carol", "--profile", "self-service")
        issued = await services.command("cert", "issue", "--user", "carol", "--out", services.folder / "carol")
        seen.append("profile self-service: MANAGE_PERSONAL_SETUP")
    carol = identity(issued)
    with report.step("Refused: carol, who lacks the permission") as seen:
        async with services.caller(*carol) as carol_calls:
            refusal = await carol_calls.refused(orders, Reason.ACCESS_DENIED)
        decision = refusal.metadata["decision"]
        seen.append(f"{refusal.reason}, {decision}")
    with report.step("The administrator asks why") as seen:
        record = await services.command("explain", decision)
        explained = record["decision"]
        if explained["reason"] != "DECISION_REASON_PERMISSION_MISSING" or explained["user"] != "users/carol":
            raise DemoError(f"the explanation is not the one expected: {record}")
        seen.append(f"{explained['reason'].removeprefix('DECISION_REASON_')}: {explained['rule']}")


async def run(folder: Path) -> int:
    report = Report()
    services = Services(folder)
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: task and task.cancel())
    started = time.perf_counter()
    try:
        try:
            await demonstrate(report, services)
        finally:
            await services.stop()
    except (DemoError, HandclaspError, OSError, KeyError) as error:
        report.failure(error, folder)
        return 1
    report.say(f"\nAll as it must be, in {time.perf_counter() - started:.1f} s. Nothing is left behind.")
    return 0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="handclasp-demo-") as folder:
        try:
            return asyncio.run(run(Path(folder).resolve()))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
