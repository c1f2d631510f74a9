"""Ports that are looked at before a start."""

from __future__ import annotations

import socket

import pytest

from handclasp.transport.ports import WantedPort, check_ports
from handclasp.transport.process import StartError


def free(setting: str = "port") -> WantedPort:
    return WantedPort("127.0.0.1", 0, setting)


def test_they_are_free_again_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for _ in range(2):
        check_ports([WantedPort("127.0.0.1", port, "port"), free("other_port")])


@pytest.mark.parametrize("shared", [False, True])
def test_one_that_somebody_listens_on_is_named(shared: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*set mtls_port"):
            check_ports([free("tls_port"), WantedPort("127.0.0.1", port, "mtls_port")])


def test_two_settings_with_one_port_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StartError, match="set mtls_port"):
        check_ports([WantedPort("127.0.0.1", port, "tls_port"), WantedPort("127.0.0.1", port, "mtls_port")])


def test_one_address_of_a_name_is_enough() -> None:
    check_ports([WantedPort("localhost", 0, "port")])


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(StartError, match="not this machine's"):
        check_ports([WantedPort(host, 0, "port")])
