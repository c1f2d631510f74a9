"""The systemd units give each service what its default limits can have it take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handclasp.certificate_service.settings import CertificateServiceLimits
from handclasp.transport.server import ServerLimits

ROOT = Path(__file__).resolve().parents[2]
OF_A_CONNECTION = 100_000  # bytes, as docs/deployment.md says
GIB = 1024**3


def unit(name: str) -> dict[str, str]:
    text = (ROOT / f"deploy/handclasp-{name}.service").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "limits", "listeners"),
    [("certificates", CertificateServiceLimits(), 2), ("executions", ServerLimits(), 1)],
)
def test_memory_and_files_are_enough_for_the_default_limits(name: str, limits: ServerLimits, listeners: int) -> None:
    found = unit(name)
    assert int(found["LimitNOFILE"]) >= listeners * limits.max_connections + 256
    memory = int(found["MemoryMax"].removesuffix("G")) * GIB
    assert memory >= listeners * (limits.max_connections * OF_A_CONNECTION + 2 * limits.request_bytes) + GIB // 4


@pytest.mark.parametrize("name", ["certificates", "executions"])
def test_no_memory_is_written_to_disk(name: str) -> None:
    assert unit(name)["LimitCORE"] == "0"
