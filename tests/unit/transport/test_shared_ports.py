"""Ports that processes share, and that nobody else gets into."""

from __future__ import annotations

import socket

import pytest

from handclasp.transport.process import StartError
from handclasp.transport.shared_ports import reserved_port


def listening(port: int, *, shared: bool = True) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_children_share_it_and_get_all_connections() -> None:
    with (
        reserved_port("127.0.0.1", 0, setting="port") as port,
        listening(port) as one,
        listening(port) as other,
    ):
        for _ in range(20):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        assert sum(accepted(listener) for listener in (one, other)) == 20


def accepted(listener: socket.socket) -> int:
    """How many connections it has."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_who_does_not_share_is_kept_out() -> None:
    with reserved_port("127.0.0.1", 0, setting="port") as port, pytest.raises(OSError, match="in use"):
        listening(port, shared=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_parent_is_refused(workers: int) -> None:
    with reserved_port("127.0.0.1", 0, setting="tls_port") as port:
        listeners = [listening(port) for _ in range(workers)]
        with (
            pytest.raises(StartError, match=f"port {port}.*set tls_port"),
            reserved_port("127.0.0.1", port, setting="tls_port"),
        ):
            pass
        for listener in listeners:
            listener.close()


def test_a_stale_process_that_shares_is_found_out() -> None:
    with (
        listening(0) as stale,
        pytest.raises(StartError),
        reserved_port("127.0.0.1", stale.getsockname()[1], setting="port"),
    ):
        pass


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartError), reserved_port("192.0.2.1", 0, setting="port"):
        pass
