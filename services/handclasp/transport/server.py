"""A gRPC server with limits, health and reflection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from pydantic import Field, IPvAnyNetwork

from handclasp.serving.call_budgets import CallLimits

_LARGEST = 2**31 - 1
"""gRPC's arguments have 32 bits."""

_WINDOW = 64 * 1024
"""Bytes that a call may send unasked."""

_Number = Annotated[int, Field(ge=1, le=_LARGEST)]
_Period = Annotated[float, Field(gt=0, le=_LARGEST / 1000, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server lets its clients take up. Times are in seconds, sizes in bytes.

    Args:
        handshake_timeout: how long it may take from the connection to the end of the TLS handshake and the first frame
            of HTTP/2. gRPC's own default of two minutes lets half-open connections pile up.
        connection_idle: how long a connection without calls stays at least; at twice that it is closed.
        max_connections: how many connections may be open at once, those in their handshake included. Beyond it, new
            ones are closed at once. One that is not used takes up to 100 KB until it is closed for that.
        max_concurrent_streams: how many calls may run at once on one connection.
        maximum_concurrent_rpcs: how many calls may run at once; more are refused (TOO_MANY_CALLS).
        reserved_rpcs: how many of those are kept for relying parties and for calls that take something away.
        rpcs_per_peer: how many may run at once for one certificate, or without one for one address (of IPv6 one /64). A
            peer never gets more than are left for all others.
        observing_rpcs: how many streams of Health.Watch and of reflection there may be, beside those calls.
        observing_rpcs_per_peer: how many of those for one certificate or address.
        arriving_rpcs: how many calls may be there whose request is not; beyond it, the oldest is ended.
        leaving_rpcs: how many calls may have an answer that the client has not taken in; beyond it, the oldest is given
            up.
        reads_per_connection: of how many calls of one connection the request is taken in at once; others take turns.
        request_timeout: how long a unary request may take to arrive, once it is its turn.
        answer_timeout: how long a client may take to take in the answer of a call; it is given up then.
        refusals_per_second: how many refusals one certificate or address is told; further ones are held back.
        refusals_per_second_in_all: how many all are told together; whoever has many addresses waits, too.
        refusal_delay: for how long a refusal is held back at most.
        request_bytes: of all requests together: those that are being taken in, each counted at its longest, and again
            those of calls that run.
        max_request_length: how long one message may be. Compressed ones are refused.
        proxy_networks: networks of TCP proxies, whose addresses stand for many peers: no limit by address for those.
        max_metadata_size: how long all metadata of one call may be.
        keepalive: how long between pings on a connection; one that does not answer is cut after `ping_timeout`.
        ping_timeout: how long the answer to a ping may take.
        max_connection_age: after how long clients are asked to connect anew, and so to shake hands anew; never if
            unset.
        max_connection_age_grace: how long calls may go on when that age is reached. Without it streams would run on.
    """

    handshake_timeout: _Period = 3.0
    connection_idle: _Period = 300.0
    max_connections: _Number = 10_000
    max_concurrent_streams: _Number = 200
    maximum_concurrent_rpcs: _Number = 1000
    reserved_rpcs: Annotated[int, Field(ge=0, le=_LARGEST)] = 200
    rpcs_per_peer: _Number = 400
    observing_rpcs: _Number = 100
    observing_rpcs_per_peer: _Number = 10
    arriving_rpcs: _Number = 4000
    reads_per_connection: _Number = 16
    leaving_rpcs: _Number = 4000
    request_timeout: _Period = 5.0
    answer_timeout: _Period = 30.0
    refusals_per_second: _Number = 100
    refusals_per_second_in_all: _Number = 500
    refusal_delay: _Period = 5.0
    request_bytes: _Number = 256 * 1024 * 1024
    max_request_length: _Number = 4 * 1024 * 1024
    proxy_networks: tuple[IPvAnyNetwork, ...] = ()
    max_metadata_size: _Number = 16 * 1024
    keepalive: _Period = 30.0
    ping_timeout: _Period = 10.0
    max_connection_age: _Period | None = None
    max_connection_age_grace: _Period = 30.0

    def of_calls(self, *, reserved: bool = True) -> CallLimits:
        """Those that the interceptor keeps.

        Args:
            reserved: whether there is anybody for whom some of the calls are kept.
        """
        return CallLimits(
            running=self.maximum_concurrent_rpcs,
            reserved=self.reserved_rpcs if reserved else 0,
            running_per_peer=self.rpcs_per_peer,
            observing=self.observing_rpcs,
            observing_per_peer=self.observing_rpcs_per_peer,
            arriving=self.arriving_rpcs,
            reading_per_connection=self.reads_per_connection,
            leaving=self.leaving_rpcs,
            request_timeout=self.request_timeout,
            answer_timeout=self.answer_timeout,
            refusals_per_second=self.refusals_per_second,
            refusals_per_second_in_all=self.refusals_per_second_in_all,
            refusal_delay=self.refusal_delay,
            request_bytes=self.request_bytes,
            max_request_length=self.max_request_length,
            proxies=self.proxy_networks,
        )


def server_options(limits: ServerLimits, *, shared_ports: bool = False) -> list[tuple[str, Any]]:
    """Those of the limits that gRPC keeps, as its channel arguments.

    Args:
        shared_ports: whether other processes may listen on the same ports; to be reserved by `shared_ports.py`.
    """
    options: list[tuple[str, Any]] = [
        # gRPC shares ports by default, and then a stale process silently takes half of the calls.
        ("grpc.so_reuseport", int(shared_ports)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_timeout)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.connection_idle)),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_receive_message_length", limits.max_request_length),
        # A few kilobytes can become as many megabytes. Identity (the lowest bit) alone is let in.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # What a call may send before anybody has asked for its message. With the probe, gRPC would raise it.
        ("grpc.http2.lookahead_bytes", _WINDOW),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_metadata_size", limits.max_metadata_size),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_size),
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.ping_timeout)),
        # Keepalive alone was seen not to cut dead peers; these two make it do so.
        ("grpc.http2.ping_timeout_ms", _milliseconds(limits.ping_timeout)),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may look for a dead server as often as this; by default gRPC sends them away for it.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if limits.max_connection_age is not None:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(limits.max_connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(limits.max_connection_age_grace)),
        ]
    return options


def make_server(
    interceptor: grpc.aio.ServerInterceptor, limits: ServerLimits, *, shared_ports: bool = False
) -> grpc.aio.Server:
    """A server without ports and services. Must be called within the event loop that will run it.

    Args:
        interceptor: keeps the limits that gRPC cannot (`ServerLimits.of_calls`).
    """
    return grpc.aio.server(interceptors=[interceptor], options=server_options(limits, shared_ports=shared_ports))


def add_health_and_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> health_aio.HealthServicer:
    """Adds both services, and reflection for the named ones. Anybody may call them whom the listener's TLS lets in.

    The servicer says SERVING for the server as a whole; `set_serving` says it for each service.
    """
    servicer = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    return servicer


async def set_serving(servicer: health_aio.HealthServicer, service_names: Sequence[str], *, serving: bool) -> None:
    """Sets the status of the server as a whole and of each service."""
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", *service_names):
        await servicer.set(name, status)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
