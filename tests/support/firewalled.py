"""What the rules of `deploy/handclasp.nft` let through; run in a network namespace of its own, as root.

    unshare --net python -m tests.support.firewalled RULES

It gives loopback addresses in other networks, loads the rules, listens, connects from those addresses, and prints how
many connections came about, were refused, or were left without an answer, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

LISTENER, OTHER_PORT = 8443, 9443
SERVER_IPV4, SERVER_IPV6 = "192.0.2.1", "2001:db8::1"
ADDRESSES = (
    *(f"{SERVER_IPV4.rpartition('.')[0]}.{host}/32" for host in range(1, 10)),
    f"{SERVER_IPV6}/128",
    *(f"2001:db8:0:{network}::{host}/128" for network in (1, 2) for host in (1, 2)),
)
_PATIENCE = 2.5  # seconds, in which a system sends a SYN twice
HASTE = 400  # connections at once

Counts: TypeAlias = dict[str, int]


@dataclass
class Visitor:
    """One who connects from an address, and keeps what comes about."""

    source: str
    port: int = LISTENER
    held: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, times: int) -> Counts:
        """Opens so many connections at once."""
        outcomes = await asyncio.gather(*(self._connect() for _ in range(times)))
        return dict(Counter(outcomes))

    async def connect_slowly(self, times: int) -> Counts:
        """Opens them at less than the rate that the rules let through."""
        outcomes: Counter[str] = Counter()
        for _ in range(times):
            outcomes[await self._connect()] += 1
            await asyncio.sleep(1 / 18)
        return dict(outcomes)

    async def hang_up(self, times: int) -> None:
        for _ in range(times):
            writer = self.held.pop()
            writer.close()
            await writer.wait_closed()

    async def _connect(self) -> str:
        loopback = self.source.startswith("127.")
        server = SERVER_IPV6 if ":" in self.source else "127.0.0.1" if loopback else SERVER_IPV4
        try:
            async with asyncio.timeout(_PATIENCE):
                _, writer = await asyncio.open_connection(server, self.port, local_addr=(self.source, 0))
        except TimeoutError:
            return "unanswered"
        except ConnectionError:
            return "refused"
        self.held.append(writer)
        return "open"


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def observe() -> dict[str, Counts]:
    """What becomes of each visitor's connections."""
    for host in ("0.0.0.0", "::"):  # noqa: S104 - in a namespace that nothing reaches
        for port in (LISTENER, OTHER_PORT):
            await asyncio.start_server(_hold, host, port, backlog=1000)
    seen: dict[str, Counts] = {}
    hasty, patient = Visitor("192.0.2.2"), Visitor("192.0.2.3")
    seen["hasty"] = await hasty.connect(HASTE)
    seen["bystander, beside a hasty one"] = await Visitor("192.0.2.4").connect(5)
    seen["patient"] = await patient.connect(90)
    seen["patient, slowly"] = await patient.connect_slowly(130)
    seen["bystander, beside a patient one"] = await Visitor("192.0.2.5").connect(5)
    await patient.hang_up(20)
    await asyncio.sleep(0.5)
    seen["patient, after hanging up"] = await patient.connect_slowly(25)
    seen["at another port"] = await Visitor("192.0.2.2", OTHER_PORT).connect(300)
    seen["this machine"] = await Visitor("127.0.0.1").connect(300)
    seen["IPv6"] = await Visitor("2001:db8:0:1::1").connect(HASTE)
    seen["IPv6, another address of the same /64"] = await Visitor("2001:db8:0:1::2").connect(HASTE)
    seen["IPv6, another /64"] = await Visitor("2001:db8:0:2::1").connect(50)
    return seen


def main() -> None:
    for command in (
        *(("ip", "address", "add", address, "dev", "lo") for address in ADDRESSES),
        ("ip", "link", "set", "lo", "up"),
        ("nft", "-f", sys.argv[1]),
        ("nft", "-f", sys.argv[1]),  # again, as after a change
    ):
        subprocess.run(command, check=True)
    print(json.dumps(asyncio.run(observe())))


if __name__ == "__main__":
    main()
