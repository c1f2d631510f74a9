"""The process that reads what a server's process writes to file descriptor 2, and tells it of refused TLS handshakes.

gRPC's core says why it refused a handshake nowhere but there, and not even there by what connection. This takes those
lines out and counts them by reason; of gRPC's other lines it passes on those of the levels that are wanted; all else
goes on to the real standard error unchanged and at once.

It is a process of its own so that nothing is lost when the other one dies: what was written before an abort is in the
pipe, which outlives it. It ends when nobody has the pipe open for writing any more. It never waits for standard error
to take what it has: else gRPC's threads, which wait for the pipe, would wait too.

Run as a file, with nothing but the standard library (`handshake_watch.py` does):

    python -I -S stderr_relay.py PIPE EVENTS STANDARD_ERROR LEVELS

The first three are descriptors: to read from, and to write to. EVENTS gets lines of a reason, a count, and the
monotonic time of the last one. LEVELS are the letters of those levels whose lines of gRPC's are passed on: `EF` for
errors and what is fatal.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from enum import Enum

MOST_WAITING = 1024 * 1024
"""Bytes that wait for a standard error that is blocked. Of what comes beyond, only the number of lines is kept."""

_READ = 64 * 1024
_ATOMIC = select.PIPE_BUF
"""No more than this is written at once: a pipe that can be written to takes as much without blocking."""

_LONGEST_LINE = 16 * 1024
_HELD = 0.2  # seconds that a line that could be gRPC's waits for its end
_LAST_WAIT = 5.0  # seconds that a standard error that is blocked has at the end

_CORE = re.compile(rb"([DIWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\] ")
_MAY_BE_CORE = re.compile(rb"[DIWEF](\d|$)")
_FAILED = re.compile(rb"Handshake failed with error [^\n]*?OPENSSL_internal:(\w+)(?:: ([^\n]*))?")

TOO_LONG = "TOO_LONG"
OTHER = "OTHER"

# Both lines can be brought about by anybody, at the level ERROR. The first is of a chain of certificates that is too
# long for gRPC's buffer. The other has a server name as the client sent it; it is answered all the same.
_CHAIN_TOO_LONG = b"SSL_write failed with error SSL_ERROR_WANT_WRITE"
_UNKNOWN_NAME = b"No match found for server name"

# What BoringSSL says of a chain (crypto/x509/x509_txt.cc), and of a handshake (ssl/ssl_*.errordata).
_OF_CHAINS = {
    b"certificate has expired": "EXPIRED",
    b"certificate is not yet valid": "NOT_YET_VALID",
    b"unsupported certificate purpose": "WRONG_PURPOSE",
    b"unable to get local issuer certificate": "UNKNOWN_CA",
    b"unable to get issuer certificate": "UNKNOWN_CA",
    b"unable to verify the first certificate": "UNKNOWN_CA",
    b"self signed certificate": "UNKNOWN_CA",
    b"self signed certificate in certificate chain": "UNKNOWN_CA",
}
_OF_HANDSHAKES = {
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE": "NO_CERTIFICATE",
    b"EXCESSIVE_MESSAGE_SIZE": TOO_LONG,
    b"EXCESS_HANDSHAKE_DATA": TOO_LONG,
    b"UNSUPPORTED_PROTOCOL": "PROTOCOL",
    b"NO_SHARED_CIPHER": "PROTOCOL",
    b"NO_SHARED_GROUP": "PROTOCOL",
    b"NO_COMMON_SIGNATURE_ALGORITHMS": "PROTOCOL",
    b"NO_APPLICATION_PROTOCOL": "PROTOCOL",
    b"WRONG_VERSION_NUMBER": "NOT_TLS",
    b"HTTP_REQUEST": "NOT_TLS",
    b"HTTPS_PROXY_REQUEST": "NOT_TLS",
    # OpenSSL clients send their alert unencrypted where BoringSSL expects it encrypted.
    b"BAD_PACKET_LENGTH": "CLIENT_BROKE_OFF",
}


class Fate(Enum):
    """What becomes of a line that is no refused handshake."""

    PASS_ON = 0
    DROP = 1


def judge(line: bytes, levels: bytes = b"EF") -> str | Fate:
    """The reason of the refused handshake that the line tells of; else what becomes of it.

    Args:
        line: without its end.
        levels: of gRPC's lines that are passed on.
    """
    core = _CORE.match(line)
    if core is None:
        return Fate.PASS_ON
    text = line[core.end() :]
    if failed := _FAILED.match(text):
        return _reason(failed[1], (failed[2] or b"").strip())
    if text.startswith(b"Handshake failed with error"):
        return OTHER
    if text.startswith(_CHAIN_TOO_LONG):
        return TOO_LONG
    if text.startswith(_UNKNOWN_NAME):
        return Fate.DROP
    return Fate.PASS_ON if core[1] in levels else Fate.DROP


def _reason(code: bytes, said: bytes) -> str:
    if code == b"CERTIFICATE_VERIFY_FAILED":
        return _OF_CHAINS.get(said, "CHAIN_INVALID")
    if b"_ALERT_" in code:
        return "CLIENT_BROKE_OFF"
    return _OF_HANDSHAKES.get(code, OTHER)


class Relay:
    """Sorts what comes in. Neither reads nor writes: `run` does."""

    def __init__(self, levels: bytes) -> None:
        self._levels = levels
        self._begun = b""
        self._begun_at = 0.0
        self._dropped = 0
        self.waiting = bytearray()
        """For standard error."""
        self.counts: dict[str, int] = {}
        """Refused handshakes that were not told of yet."""
        self._last: dict[str, float] = {}

    @property
    def holds(self) -> bool:
        """Whether the beginning of a line waits for the rest."""
        return bool(self._begun)

    def take(self, data: bytes, now: float) -> None:
        """Sorts what was read."""
        *lines, rest = (self._begun + data).split(b"\n")
        for line in lines:
            verdict = judge(line, self._levels)
            if isinstance(verdict, str):
                self.counts[verdict] = self.counts.get(verdict, 0) + 1
                self._last[verdict] = now
            elif verdict is Fate.PASS_ON:
                self._pass_on(line + b"\n")
        if rest and (len(rest) > _LONGEST_LINE or not _MAY_BE_CORE.match(rest)):
            # A prompt, or the beginning of something long: nobody is to wait for its end.
            self._pass_on(rest)
            rest = b""
        if not self._begun or lines:
            self._begun_at = now
        self._begun = rest

    def told(self) -> bytes:
        """The lines that tell of the refused handshakes; they count as told of."""
        counts, self.counts = self.counts, {}
        return b"".join(b"%s %d %.3f\n" % (why.encode(), count, self._last[why]) for why, count in counts.items())

    def let_go(self, now: float, *, at_once: bool = False) -> None:
        """Passes on the beginning of a line that has waited for long enough."""
        if self._begun and (at_once or now - self._begun_at >= _HELD):
            self._pass_on(self._begun)
            self._begun = b""

    def next_piece(self) -> bytes:
        """What to write next: whole lines if they are not too long, since others write to the same place."""
        piece = bytes(self.waiting[:_ATOMIC])
        return piece[: piece.rfind(b"\n") + 1] or piece

    def written(self, count: int) -> None:
        """So many bytes of `waiting` are with standard error."""
        del self.waiting[:count]
        if self._dropped and not self.waiting:
            self.waiting += b"[%d lines are missing here: standard error was blocked]\n" % self._dropped
            self._dropped = 0

    def _pass_on(self, data: bytes) -> None:
        if len(self.waiting) + len(data) > MOST_WAITING:
            self._dropped += max(1, data.count(b"\n"))
        else:
            self.waiting += data


def run(pipe: int, events: int, output: int, *, levels: bytes) -> None:
    """Relays until the pipe has no writers any more, and what it had is with whom it was for."""
    relay = Relay(levels)
    os.set_blocking(events, False)
    telling, heard = b"", True
    is_open, progress = True, time.monotonic()
    while is_open or relay.waiting or (heard and (telling or relay.counts)):
        poll = select.poll()
        if is_open:
            poll.register(pipe, select.POLLIN)
        if relay.waiting:
            poll.register(output, select.POLLOUT)
        if heard and (telling or relay.counts):
            poll.register(events, select.POLLOUT)
        wait = _HELD if relay.holds else None if is_open else _LAST_WAIT
        ready = dict(poll.poll(None if wait is None else wait * 1000))
        now = time.monotonic()
        if ready:
            progress = now
        elif not is_open and now - progress >= _LAST_WAIT:
            return
        if pipe in ready:
            data = os.read(pipe, _READ)
            is_open = bool(data)
            relay.take(data, now)
        relay.let_go(now, at_once=not is_open)
        if output in ready:
            relay.written(_write(output, relay.next_piece()))
        if events in ready:
            if not telling:
                telling = relay.told()
            try:
                telling = telling[os.write(events, telling) :]
            except BlockingIOError:
                pass
            except OSError:
                # The server's process has ended, or reads it no more.
                heard = False


def _write(output: int, data: bytes) -> int:
    """How much of it need not be kept any more: all, if nobody will ever read it."""
    try:
        return os.write(output, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


if __name__ == "__main__":
    # Ctrl-C, and a supervisor that stops the service, are not meant for this: what it is told of comes to an end then.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), levels=sys.argv[4].encode())
