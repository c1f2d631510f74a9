"""An HTTP/2 client over TLS that does what a test tells it to, for attacks: half calls, held messages, floods.

    async with connected(Target(port, ca_pem)) as connection:
        call = connection.open_call("/package.Service/Method")      # HEADERS, and nothing else
        await call.send(grpc_message(b"...")[:-1])                  # all of a message but its last byte
        outcome = await call.outcome()                              # how it ended: status, or reset

It answers SETTINGS and PING, heeds the server's flow control in `Call.send`, and nothing else: `Connection.write` sends
any bytes. What it keeps is bounded: of each call the first `KEPT_BYTES`, and of each connection one frame.
"""

from __future__ import annotations

import asyncio
import binascii
import ssl
import struct
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path

import grpc
import hpack
from google.rpc import error_details_pb2, status_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
KEPT_BYTES = 256 * 1024
CONNECT_SECONDS = 10.0
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65535  # RFC 9113, section 6.9.2
_STATUSES = {status.value[0]: status for status in grpc.StatusCode}


class Kind(IntEnum):
    """Types of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Flags of frames; what one means depends on the type."""

    NONE = 0
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    """Settings that are of use here (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


def frame(kind: Kind, payload: bytes = b"", *, stream: int = 0, flags: int = Flag.NONE) -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings_frame(values: dict[Setting, int]) -> bytes:
    return frame(Kind.SETTINGS, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def header_block(headers: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Headers in HPACK. The dynamic table is not used, so that the same bytes may be sent again and again."""
    never_indexed = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return hpack.Encoder().encode(never_indexed, huffman=False)


def call_headers(path: str, extra: Iterable[tuple[str, str | bytes]] = ()) -> bytes:
    """The header block that begins a gRPC call."""
    return header_block(
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *extra,
        ]
    )


def grpc_message(data: bytes, *, compressed: bool = False, announced: int | None = None) -> bytes:
    """A message with gRPC's prefix of five bytes.

    Args:
        compressed: whether the prefix says that `data` is; the call's header `grpc-encoding` says how.
        announced: the length that the prefix states, if another one than that of `data`.
    """
    return struct.pack(">BI", compressed, len(data) if announced is None else announced) + data


@dataclass(frozen=True)
class Target:
    """Where to connect, and as whom. Attackers that are processes of their own are given one.

    Args:
        source: the loopback address to come from, such as 127.0.1.7; the default one if unset.
    """

    port: int
    ca_pem: bytes
    certificate_pem: bytes | None = None
    key_pem: bytes | None = field(default=None, repr=False)
    source: str | None = None
    host: str = "127.0.0.1"

    def tls(self) -> ssl.SSLContext:
        """A context of this client; to be made once for many connections."""
        context = ssl.create_default_context(cadata=self.ca_pem.decode())
        context.set_alpn_protocols(["h2"])
        if self.certificate_pem is not None and self.key_pem is not None:
            with tempfile.TemporaryDirectory() as folder:
                certificate, key = Path(folder, "certificate"), Path(folder, "key")
                certificate.write_bytes(self.certificate_pem)
                key.write_bytes(self.key_pem)
                context.load_cert_chain(certificate, key)
        return context


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        status: of the trailers; None if there were none, because the call was reset or the connection lost.
        message: the trailers' text.
        reason: of the trailers' `google.rpc.ErrorInfo`, if there is one.
        reset: the code of RST_STREAM, if one came.
        data: of what the server sent, the first `KEPT_BYTES`.
    """

    status: grpc.StatusCode | None = None
    message: str = ""
    reason: str = ""
    reset: int | None = None
    data: bytes = b""


class Call:
    """A stream of a connection; made by `Connection.open_call`."""

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.number = number
        self.window = window
        self._connection = connection
        self._headers: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def outcome(self) -> Outcome:
        """Waits for its end; one by the loss of the connection counts."""
        return await asyncio.shield(self._ended)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Sends DATA as the server's windows let it. Raises `ConnectionError` if call or connection end first."""
        sent = 0
        while True:
            room = await self._connection.room_for(self) if sent < len(data) else 0
            part = data[sent : sent + room]
            sent += len(part)
            last = sent >= len(data)
            self._connection.spend(self, len(part))
            self._connection.write(
                frame(Kind.DATA, part, stream=self.number, flags=Flag.END_STREAM if last and end else Flag.NONE)
            )
            await self._connection.drained()
            if last:
                return

    def reset(self, code: int = 8) -> None:
        """Gives it up; 8 is CANCEL."""
        self._connection.write(frame(Kind.RST_STREAM, struct.pack(">I", code), stream=self.number))
        self.end(Outcome())

    def receive_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._headers.update(headers)

    def receive_data(self, data: bytes) -> None:
        self._data += data[: KEPT_BYTES - len(self._data)]

    def end(self, outcome: Outcome | None = None) -> None:
        """Notes its end, by what was received unless an outcome is given."""
        if not self._ended.done():
            self._ended.set_result(outcome or self._received())

    def _received(self) -> Outcome:
        status = self._headers.get(b"grpc-status")
        return Outcome(
            status=None if status is None else _STATUSES[int(status)],
            message=self._headers.get(b"grpc-message", b"").decode(errors="replace"),
            reason=_reason(self._headers.get(b"grpc-status-details-bin", b"")),
            data=bytes(self._data),
        )


def _reason(details: bytes) -> str:
    try:
        status = status_pb2.Status.FromString(b64decode(details + b"=" * (-len(details) % 4)))
    except binascii.Error:
        return ""
    info = error_details_pb2.ErrorInfo()
    return next((str(info.reason) for detail in status.details if detail.Unpack(info)), "")


class Connection(asyncio.Protocol):
    """One connection; made by `connected`.

    Attributes:
        goaway: code and text of the server's GOAWAY, if one came.
    """

    def __init__(self, receive_window: int) -> None:
        self._lost = asyncio.Event()
        self.goaway: tuple[int, str] | None = None
        self._receive_window = receive_window
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._decoder = hpack.Decoder()
        self._block = bytearray()
        self._block_is_last = False
        self._window = self._initial_window = _FIRST_WINDOW
        self._largest_frame = 16384
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def lost(self) -> bool:
        """Whether it is closed, by whichever side."""
        return self._lost.is_set()

    async def wait_until_lost(self) -> None:
        await self._lost.wait()

    def open_call(self, path: str, extra: Iterable[tuple[str, str | bytes]] = (), *, end: bool = False) -> Call:
        """Begins a call with its HEADERS.

        Args:
            extra: metadata; `("grpc-encoding", "gzip")` for compressed messages.
            end: whether nothing else will be sent.
        """
        return self.open_stream(call_headers(path, extra), Flag.END_HEADERS | (Flag.END_STREAM if end else Flag.NONE))

    def open_stream(self, block: bytes, flags: int = Flag.END_HEADERS) -> Call:
        """Begins a stream with a header block as it is, in one frame."""
        call = Call(self, self._next, self._initial_window)
        self._next += 2
        self._calls[call.number] = call
        self.write(frame(Kind.HEADERS, block, stream=call.number, flags=flags))
        return call

    def write(self, data: bytes) -> None:
        """Sends bytes. What is sent to a connection that is lost is gone; `drained` raises then."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Waits until the server reads. Raises `ConnectionError` if the connection is lost."""
        await asyncio.sleep(0)  # else a flood would never see what comes back
        await self._writable.wait()
        if self.lost or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError(f"the connection is lost; GOAWAY: {self.goaway}")

    async def room_for(self, call: Call) -> int:
        """How much DATA may be sent in one frame, once it is more than nothing."""
        while (room := min(call.window, self._window, self._largest_frame)) <= 0:
            if self.lost or call.ended:
                raise ConnectionResetError(f"stream {call.number} has ended")
            self._changed.clear()
            await self._changed.wait()
        return room

    def spend(self, call: Call, length: int) -> None:
        """Takes DATA that is sent from the windows."""
        call.window -= length
        self._window -= length

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.write(PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: self._receive_window}))
        if self._receive_window > _FIRST_WINDOW:
            self.write(frame(Kind.WINDOW_UPDATE, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)))

    def connection_lost(self, _error: Exception | None) -> None:
        self._lost.set()
        for call in self._calls.values():
            call.end(Outcome())
        self._calls.clear()
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3])
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload = bytes(self._received[9 : 9 + length])
            del self._received[: 9 + length]
            self._receive(kind, flags, stream & _LARGEST_WINDOW, payload)

    def _receive(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        call = self._calls.get(stream)
        match kind:
            case Kind.SETTINGS if not flags & Flag.ACK:
                self._heed(payload)
                self.write(frame(Kind.SETTINGS, flags=Flag.ACK))
            case Kind.PING if not flags & Flag.ACK:
                self.write(frame(Kind.PING, payload, flags=Flag.ACK))
            case Kind.GOAWAY:
                self.goaway = (int.from_bytes(payload[4:8]), payload[8:200].decode(errors="replace"))
            case Kind.WINDOW_UPDATE:
                self._widen(call, stream, int.from_bytes(payload))
            case Kind.HEADERS | Kind.CONTINUATION:
                self._receive_block(call, kind, flags, payload)
            case Kind.DATA if call is not None:
                call.receive_data(_unpadded(payload, flags))
                if flags & Flag.END_STREAM:
                    call.end()
            case Kind.RST_STREAM if call is not None:
                call.end(Outcome(reset=int.from_bytes(payload)))
        if call is not None and call.ended:
            del self._calls[stream]
            self._changed.set()

    def _receive_block(self, call: Call | None, kind: int, flags: int, payload: bytes) -> None:
        if kind == Kind.HEADERS:
            payload, self._block_is_last = _unpadded(payload, flags), bool(flags & Flag.END_STREAM)
        self._block += payload
        if flags & Flag.END_HEADERS:
            headers = self._decoder.decode(bytes(self._block), raw=True)
            self._block.clear()
            if call is not None:
                call.receive_headers((bytes(name), bytes(value)) for name, value in headers)
                if self._block_is_last:
                    call.end()

    def _heed(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == Setting.INITIAL_WINDOW_SIZE:
                for call in self._calls.values():
                    call.window += value - self._initial_window
                self._initial_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                self._largest_frame = value
        self._changed.set()

    def _widen(self, call: Call | None, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif call is not None:
            call.window += by
        self._changed.set()


def _unpadded(payload: bytes, flags: int) -> bytes:
    start, end = 0, len(payload)
    if flags & Flag.PADDED:
        start, end = 1, end - payload[0]
    if flags & Flag.PRIORITY:
        start += 5
    return payload[start:end]


async def connect(
    target: Target, *, tls: ssl.SSLContext | None = None, receive_window: int = _LARGEST_WINDOW
) -> Connection:
    """Opens a connection and sends the preface. Close it.

    Args:
        tls: of `target.tls()`, if many connections are made.
        receive_window: how much the server may send in each call; 0 for a client that reads nothing.

    Raises:
        OSError: there is no connection within `CONNECT_SECONDS`.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        _, connection = await loop.create_connection(
            lambda: Connection(receive_window),
            target.host,
            target.port,
            ssl=tls or target.tls(),
            server_hostname="localhost",
            local_addr=None if target.source is None else (target.source, 0),
        )
    return connection


@asynccontextmanager
async def connected(
    target: Target, *, tls: ssl.SSLContext | None = None, receive_window: int = _LARGEST_WINDOW
) -> AsyncIterator[Connection]:
    """The same, closed at the end."""
    connection = await connect(target, tls=tls, receive_window=receive_window)
    try:
        yield connection
    finally:
        connection.close()
