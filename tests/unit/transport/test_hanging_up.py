"""What is closed when a server hangs up: what was accepted on its ports, and nothing else."""

from __future__ import annotations

import os
import socket

from handclasp.transport.hanging_up import hang_up


def test_only_connections_accepted_on_the_ports_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, other_port = server.getsockname()[1], other.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as client,
            socket.create_connection(("127.0.0.1", other_port)) as bystander,
            server.accept()[0] as accepted,
            other.accept()[0] as kept,
            socket.socketpair()[0],
        ):
            accepted.sendall(b"said before")
            before = len(os.listdir("/dev/fd"))
            hang_up({port})
            assert len(os.listdir("/dev/fd")) == before
            client.settimeout(10)
            assert client.recv(100) == b"said before"
            assert client.recv(100) == b""
            kept.sendall(b"still there")
            assert bystander.recv(100) == b"still there"
            # It goes on to listen.
            with socket.create_connection(("127.0.0.1", port)) as later, server.accept()[0]:
                hang_up({port})
                later.settimeout(10)
                assert later.recv(100) == b""
