"""Connections are files, and a process may have only so many open."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from handclasp.transport.file_descriptors import fitting
from handclasp.transport.server import ServerLimits

_RAISE = """
import resource
from handclasp.transport.file_descriptors import raise_limit
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
raise_limit()
print(soft, hard, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@contextmanager
def file_limit(files: int) -> Iterator[None]:
    """Within, this process may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_takes_the_files_that_it_is_allowed() -> None:
    with file_limit(300):
        said = subprocess.run([sys.executable, "-c", _RAISE], capture_output=True, text=True, check=True, timeout=60)
    soft, hard, *then = map(int, said.stdout.split())
    assert soft == 300
    allowed = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    assert then == [allowed, hard]


@pytest.mark.parametrize(("files", "listeners", "connections"), [(1000, 1, 744), (1000, 2, 372), (200, 1, 1)])
def test_no_more_connections_than_files(files: int, listeners: int, connections: int) -> None:
    with file_limit(files), structlog.testing.capture_logs() as log:
        limits = fitting(ServerLimits(max_connections=900, connection_idle=7), listeners=listeners)
    assert limits == ServerLimits(max_connections=connections, connection_idle=7)
    assert [(event["event"], event["max_connections"], event["set"]) for event in log] == [
        ("fewer_connections", connections, 900)
    ]


def test_what_fits_stays() -> None:
    limits = ServerLimits(max_connections=100)
    with file_limit(1000), structlog.testing.capture_logs() as log:
        assert fitting(limits, listeners=2) is limits
    assert log == []
