"""Makes gRPC channels: always TLS, with a client certificate or Basic credentials or both, and with typed errors."""

from __future__ import annotations

import random
from typing import Any

import grpc

from handclasp.client.addresses import is_loopback, split_addresses
from handclasp.client.balancing import balancing_options
from handclasp.client.calls import BasicAuthentication, DefaultTimeout, TypedErrors
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.client.failover import FailoverChannel, Rotation

_LARGEST_ANSWER = 16 * 1024 * 1024  # bytes

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # A channel of its own for each identity: by default channels in one process share connections and their back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # Notices a server that went away without a word, within a quarter of a minute. Our servers allow a ping every ten
    # seconds. It is the timeout of pings that counts, a minute by default, and not that of keepalive.
    ("grpc.keepalive_time_ms", 11_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Soon back after a restart of the server; the default grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
)


def open_channel(
    addresses: str,
    tls: TlsMaterial,
    *,
    basic: BasicCredentials | None = None,
    timeout: float | None = 30.0,
    spread: bool = True,
) -> grpc.aio.Channel:
    """A channel whose calls raise `HandclaspError` and never `grpc.aio.AioRpcError`. Nothing is sent before a call is.

    Covers calls with one request and one response. The caller closes it.

    Args:
        addresses: `host:port`; or several with commas in between, at each of which the same is served. If one does not
            answer, calls go to another one: those that only read or take away or have a `request_id` in any case,
            others if nothing was done. Each server's certificate must have the name by which it is called.
        tls: what to check the servers with, and what to present.
        basic: sent with every call.
        timeout: seconds until a call that brings no timeout of its own is given up, a minute more if it takes something
            away; None for never.
        spread: whether calls go to all of several addresses in turn; otherwise they stay with one that answers.
    """
    found = split_addresses(addresses)
    if len(found) == 1:
        return _to_one(addresses, tls, basic, timeout)
    # Each client begins with another one.
    channels = [_to_one(address, tls, basic, None) for address in random.sample(found, len(found))]
    return FailoverChannel(channels, Rotation(len(found), spread=spread), [DefaultTimeout(timeout)])


def _to_one(address: str, tls: TlsMaterial, basic: BasicCredentials | None, timeout: float | None) -> grpc.aio.Channel:
    interceptors: list[grpc.aio.ClientInterceptor] = [TypedErrors(address, tls), DefaultTimeout(timeout)]
    if basic is not None:
        interceptors.append(BasicAuthentication(basic.header()))
    credentials = grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate)
    options = [*_OPTIONS, *balancing_options(address)]
    if is_loopback(address):
        # A proxy named by the environment would be asked to connect to itself.
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)
