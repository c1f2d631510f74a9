"""Makes gRPC channels: always TLS, with a client certificate or Basic credentials or both, and with typed errors."""

from __future__ import annotations

import ipaddress

import grpc

from handclasp.client.calls import BasicAuthentication, TypedErrors
from handclasp.client.credentials import BasicCredentials, TlsMaterial

_LARGEST_ANSWER = 16 * 1024 * 1024  # bytes

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A channel of its own for each identity: by default channels in one process share connections and their back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # Notices a server that went away without a word. Our servers allow a ping every ten seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Soon back after a restart of the server; the default grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
)


def open_channel(
    address: str, tls: TlsMaterial, *, basic: BasicCredentials | None = None, timeout: float | None = 30.0
) -> grpc.aio.Channel:
    """A channel whose calls raise `HandclaspError` and never `grpc.aio.AioRpcError`. Nothing is sent before a call is.

    Covers calls with one request and one response. The caller closes it.

    Args:
        address: `host:port`.
        tls: what to check the server with, and what to present.
        basic: sent with every call.
        timeout: seconds until a call that brings no timeout of its own is given up; None for never.
    """
    interceptors: list[grpc.aio.ClientInterceptor] = [TypedErrors(address, tls, timeout)]
    if basic is not None:
        interceptors.append(BasicAuthentication(basic.header()))
    credentials = grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate)
    options = [*_OPTIONS]
    if is_loopback(address):
        # A proxy named by the environment would be asked to connect to itself.
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
