"""Reading who calls."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, cast

import grpc
import pytest

from handclasp.errors import Unauthenticated
from handclasp.serving.peer import MAX_AUTHORIZATION_LENGTH, BasicCredentials, Peer, parse_basic, read_peer
from tests.support.outside_ca import OutsideCA


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


class Call:
    """The three things of a call's context that are read."""

    def __init__(self, peer: str = "ipv4:192.0.2.7:5", pem: bytes | None = None, *headers: tuple[str, str]) -> None:
        self._peer, self._pem, self._headers = peer, pem, headers

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return {} if self._pem is None else {"x509_pem_cert": [self._pem], "x509_pem_cert_chain": [b"anything"]}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._headers

    def context(self) -> grpc.aio.ServicerContext[Any, Any]:
        return cast("grpc.aio.ServicerContext[Any, Any]", self)


@pytest.mark.parametrize(
    ("header", "username", "password"),
    [
        (f"Basic {encoded('alice:secret')}", "alice", "secret"),
        (f"bAsIc   {encoded('alice:a:b')}", "alice", "a:b"),
        (f"Basic {encoded('älice:pässwörd')}", "älice", "pässwörd"),
        (f"Basic {encoded(':')}", "", ""),
    ],
)
def test_basic_credentials_are_read(header: str, username: str, password: str) -> None:
    assert parse_basic(header) == BasicCredentials(username, password)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Bearer abc",
        "Basic !!!",
        f"Basic {encoded('no colon')}",
        f"Basic {encoded('a:b')} more",
        f"Basic {encoded(b'a:' + bytes([0xFF]))}",
        f"Basic {encoded('a:b' + chr(10))}",
        f"Basic {encoded('a:' + 'x' * MAX_AUTHORIZATION_LENGTH)}",
        "Basic ä",
    ],
)
def test_what_is_no_basic_header_is_refused_without_being_repeated(header: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        parse_basic(header)
    assert caught.value.reason == "CREDENTIALS_MALFORMED"
    assert caught.value.__cause__ is None
    if len(header) > 10:
        assert header[-8:] not in str(caught.value)


def test_the_leaf_is_read_as_der() -> None:
    leaf = OutsideCA().issue()
    peer = read_peer(Call(pem=leaf.pem.encode()).context())
    assert peer.certificate_der == leaf.der
    assert peer.fingerprint == hashlib.sha256(leaf.der).hexdigest()


def test_without_a_certificate_there_is_no_fingerprint() -> None:
    peer = read_peer(Call().context())
    assert peer.certificate_der is None
    assert peer.fingerprint is None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"),
        ("unix:/run/socket", ""),
    ],
)
def test_the_address_has_no_port(name: str, address: str) -> None:
    assert read_peer(Call(name).context()).address == address


def test_two_headers_are_refused() -> None:
    header = ("authorization", f"Basic {encoded('a:b')}")
    with pytest.raises(Unauthenticated):
        read_peer(Call("ipv4:192.0.2.7:1", None, header, header).context())


def test_no_repr_shows_a_password() -> None:
    assert "hunter2" not in repr(Peer("192.0.2.7", b"der", BasicCredentials("alice", "hunter2")))
