"""The rules of `deploy/handclasp.nft`, in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.integration_execution.settings import ExecutionSettings
from tests.support.firewalled import Counts

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/handclasp.nft"
BURST, OPEN = 100, 200  # of the rules


@pytest.fixture(scope="module")
def rules() -> Path:
    """The rules, where they can be loaded."""
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    missing = [tool for tool in ("nft", "ip", "unshare") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    tried = subprocess.run(
        ["unshare", "--net", "nft", "-f", RULES], capture_output=True, text=True, timeout=30, check=False
    )
    # A container's root may not make namespaces, and a kernel may lack what counts connections.
    if tried.returncode != 0 and re.search("Operation not permitted|not supported|No such file", tried.stderr):
        pytest.skip(f"this system has no network namespaces or no nftables: {tried.stderr.splitlines()[0]}")
    return RULES


@pytest.fixture(scope="module")
def seen(rules: Path) -> dict[str, Counts]:
    """How many connections of each visitor came about."""
    command = ["unshare", "--net", sys.executable, "-m", "tests.support.firewalled", str(rules)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Counts] = json.loads(finished.stdout)
    return answer


def test_the_rules_are_nftables(rules: Path) -> None:
    subprocess.run(["nft", "--check", "--file", rules], check=True, timeout=30)


def test_they_are_for_the_ports_that_the_services_have() -> None:
    [ports] = re.findall(r"^define listeners = \{ (.*) \}$", RULES.read_text(encoding="utf-8"), re.MULTILINE)
    certificates, executions = CertificateServiceSettings.model_fields, ExecutionSettings.model_fields
    expected = {certificates["tls_port"].default, certificates["mtls_port"].default, executions["port"].default}
    assert {int(port) for port in ports.split(", ")} == expected


def test_one_who_connects_too_fast_is_left_without_an_answer(seen: dict[str, Counts]) -> None:
    assert BURST <= seen["hasty"]["open"] <= OPEN
    assert seen["hasty"]["unanswered"] > 0


def test_one_who_has_too_many_is_refused_until_some_are_closed(seen: dict[str, Counts]) -> None:
    assert seen["patient"] == {"open": 90}
    assert seen["patient, slowly"] == {"open": OPEN - 90, "refused": 130 - (OPEN - 90)}
    assert seen["patient, after hanging up"] == {"open": 20, "refused": 5}


@pytest.mark.parametrize("beside", ["a hasty one", "a patient one"])
def test_others_connect_as_ever(seen: dict[str, Counts], beside: str) -> None:
    assert seen[f"bystander, beside {beside}"] == {"open": 5}


def test_addresses_of_a_network_count_as_one_in_ipv6(seen: dict[str, Counts]) -> None:
    assert BURST <= seen["IPv6"]["open"] <= OPEN
    assert seen["IPv6, another address of the same /64"].get("open", 0) < BURST
    assert seen["IPv6, another /64"] == {"open": 50}


@pytest.mark.parametrize("who", ["this machine", "at another port"])
def test_nobody_else_is_limited(seen: dict[str, Counts], who: str) -> None:
    assert seen[who] == {"open": 300}
