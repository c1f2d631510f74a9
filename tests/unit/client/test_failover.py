"""Several servers of which each does the same: whose turn it is, and what follows if one does not answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.client import HandclaspClient, TlsMaterial, failover
from handclasp.client.addresses import check_addresses, may_be_several, split_addresses
from handclasp.client.balancing import balancing_options, round_robin
from handclasp.client.csr import make_key_and_request
from handclasp.client.failover import FailoverChannel, Rotation
from handclasp.client.repeatable import identified, may_be_repeated, reads
from handclasp.errors import Reason, Unauthenticated, Unavailable
from tests.support.outside_ca import OutsideCA
from tests.unit.client.small_service import Small, serving


def test_addresses() -> None:
    assert split_addresses("a.example:1, b.example:2") == ("a.example:1", "b.example:2")
    assert check_addresses("a.example:1,[::1]:2") is None
    assert "is not host:port" in str(check_addresses("a.example:1,b.example"))
    assert "is not host:port" in str(check_addresses("a.example:1,"))
    assert check_addresses("a.example:1,a.example:1") == "names an address more than once"
    assert [may_be_several(address) for address in ("a.example:1", "localhost:1", "10.0.0.1:1", "[::1]:1")] == [
        True,
        False,
        False,
        False,
    ]


def test_gRPC_balances_between_the_servers_of_a_name() -> None:  # noqa: N802 its name
    assert balancing_options("a.example:1") == round_robin()
    assert balancing_options("10.0.0.1:1") == []


def test_what_may_be_repeated() -> None:
    methods = {method for _, method in reads()}
    assert methods == {
        *("GetUser", "ListUsers", "GetAccessProfile", "ListAccessProfiles", "ExplainDecision"),
        *("ListRefusals", "CheckPeer"),
        *("GetCertificate", "ListCertificates", "CheckPermission", "BatchCheckPermissions", "ListEnrollmentTokens"),
        *("ListTrustAnchors", "GetTrustBundle", "ListIntegrations", "GetIntegration"),
    }
    issue = "/handclasp.certificates.v1.CertificateService/IssueCertificate"
    assert not may_be_repeated(issue, messages.IssueCertificateRequest())
    assert may_be_repeated(issue, messages.IssueCertificateRequest(request_id="once"))
    assert may_be_repeated("/p.S/RevokeCertificate", messages.RevokeCertificateRequest())
    assert not may_be_repeated("/p.S/ReinstateCertificate", messages.ReinstateCertificateRequest())
    given = messages.IssueCertificateRequest(user="users/alice")
    made = identified(given)
    assert (made.user, given.request_id) == ("users/alice", "")
    assert may_be_repeated(issue, made)
    assert identified(made) is made
    assert identified(BUNDLE) is BUNDLE
    assert identified(b"bytes") == b"bytes"


class Channel:
    """As much of a channel as a rotation looks at."""

    def __init__(self) -> None:
        self.state = grpc.ChannelConnectivity.IDLE

    def get_state(self) -> grpc.ChannelConnectivity:
        return self.state


def test_turns() -> None:
    clock = [0.0]
    channels: list[Any] = [Channel(), Channel(), Channel()]
    spread = Rotation(3, spread=True, clock=lambda: clock[0])
    assert [spread.order(channels) for _ in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
    spread.failed(1)
    assert [spread.order(channels) for _ in range(2)] == [[2, 0, 1], [2, 0, 1]]
    channels[2].state = grpc.ChannelConnectivity.TRANSIENT_FAILURE
    assert spread.order(channels) == [0, 1, 2]
    clock[0] += failover.SHUNNED_SECONDS
    assert spread.order(channels) == [1, 0, 2]
    channels[2].state = grpc.ChannelConnectivity.READY
    assert spread.order(channels) == [2, 0, 1]
    loyal = Rotation(3, spread=False, clock=lambda: clock[0])
    loyal.answered(1)
    assert [loyal.order(channels) for _ in range(2)] == [[1, 2, 0]] * 2
    loyal.failed(1)
    loyal.answered(2)
    assert loyal.order(channels) == [2, 0, 1]


@dataclass
class Two:
    """Two servers, and a third one that takes connections and says nothing."""

    one: Small
    other: Small
    silent: str
    stack: AsyncExitStack

    def stub(self, *addresses: str, spread: bool = False) -> CertificateServiceStub:
        credentials = grpc.ssl_channel_credentials(self.one.root.pem.encode())
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.secure_channel(address, credentials, options=options) for address in addresses]
        channel = FailoverChannel(channels, Rotation(len(channels), spread=spread))
        self.stack.push_async_callback(channel.close)
        return CertificateServiceStub(channel)


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def two(silent: str) -> AsyncIterator[Two]:
    root = OutsideCA("root")
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(serving(Small(root=root))) for _ in range(2)]
        yield Two(one, other, silent, stack)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


BUNDLE = messages.GetTrustBundleRequest()


async def test_all_are_asked_in_turn_or_only_one(two: Two) -> None:
    stub = two.stub(two.one.tls, two.other.tls, spread=True)
    for _ in range(6):
        await stub.GetTrustBundle(BUNDLE)
    assert (len(two.one.seen), len(two.other.seen)) == (3, 3)
    stub = two.stub(two.one.tls, two.other.tls)
    for _ in range(6):
        await stub.GetTrustBundle(BUNDLE)
    assert (len(two.one.seen), len(two.other.seen)) == (9, 3)


async def test_a_read_goes_to_the_next_one(two: Two) -> None:
    two.one.refuse["GetTrustBundle"] = [grpc.StatusCode.UNAVAILABLE]
    stub = two.stub(two.one.tls, two.other.tls)
    await stub.GetTrustBundle(BUNDLE, timeout=10)
    assert (len(two.one.seen), len(two.other.seen)) == (1, 1)
    # And the next ones, too: it has answered.
    await stub.GetTrustBundle(BUNDLE, timeout=10)
    assert len(two.other.seen) == 2


async def test_one_that_is_silent_takes_only_its_share_of_the_time(two: Two) -> None:
    stub = two.stub(two.silent, two.one.tls)
    async with asyncio.timeout(4):
        await stub.GetTrustBundle(BUNDLE, timeout=3)
    assert len(two.one.seen) == 1


async def test_what_was_not_sent_to_one_that_is_silent_goes_to_the_next_one(two: Two) -> None:
    """A frozen process whose connections the kernel takes: nothing was done there, so any call may go on."""
    reinstate = messages.ReinstateCertificateRequest(name="certificates/c0")
    stub = two.stub(two.silent, two.one.tls)
    async with asyncio.timeout(4):
        await stub.ReinstateCertificate(reinstate, timeout=3)
    assert len(two.one.asked("ReinstateCertificate")) == 1
    alone = two.stub(free_address(), two.silent)
    with pytest.raises(grpc.aio.AioRpcError):
        await alone.ReinstateCertificate(reinstate, timeout=1)


async def test_one_with_a_certificate_of_another_ca_is_passed_over(two: Two) -> None:
    """Nothing was sent to it. If there is nobody else, that is what is said."""
    revoke = messages.RevokeCertificateRequest(name="certificates/c0")
    tls = TlsMaterial(two.one.root.pem.encode())
    async with serving(Small(root=OutsideCA("another root"))) as wrong:
        async with HandclaspClient(tls=tls, certificates=f"{wrong.tls},{two.one.tls}") as client:
            for _ in range(4):
                await client.certificates.RevokeCertificate(revoke)
                await client.certificates.GetTrustBundle(BUNDLE)
        assert len(two.one.asked("RevokeCertificate")) == 4
        async with HandclaspClient(tls=tls, certificates=f"{wrong.tls},{free_address()}") as client:
            with pytest.raises((Unauthenticated, Unavailable)):
                await client.certificates.RevokeCertificate(revoke)
        assert not wrong.seen


async def test_what_has_a_request_id_goes_to_the_next_one_and_what_gives_does_not(two: Two) -> None:
    stub = two.stub(two.one.tls, two.other.tls)
    two.one.refuse["ReinstateCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ReinstateCertificate(messages.ReinstateCertificateRequest(name="certificates/c0"), timeout=10)
    assert not two.other.seen
    two.one.refuse["RenewCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    two.other.refuse["RenewCertificate"] = [grpc.StatusCode.NOT_FOUND]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RenewCertificate(messages.RenewCertificateRequest(request_id="once"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND, "a refusal is an answer"
    assert two.other.seen[-1].request.request_id == "once"


async def test_if_none_answers_that_is_said_at_once_unless_one_did_before(two: Two) -> None:
    nobody = two.stub(free_address(), free_address())
    async with asyncio.timeout(5):
        with pytest.raises(grpc.aio.AioRpcError):
            await nobody.GetTrustBundle(BUNDLE, timeout=30)
    stub = two.stub(two.one.tls, two.other.tls)
    await stub.GetTrustBundle(BUNDLE, timeout=10)
    two.one.refuse["GetTrustBundle"] = [grpc.StatusCode.UNAVAILABLE] * 2
    two.other.refuse["GetTrustBundle"] = [grpc.StatusCode.UNAVAILABLE] * 2
    await stub.GetTrustBundle(BUNDLE, timeout=10)


async def test_a_client_of_several_addresses(two: Two) -> None:
    tls = TlsMaterial(two.one.root.pem.encode())
    async with HandclaspClient(tls=tls, certificates=f"{two.one.tls},{two.other.tls}") as client:
        for _ in range(4):
            await client.certificates.GetTrustBundle(BUNDLE)
        assert (len(two.one.seen), len(two.other.seen)) == (2, 2)
        # Whichever it comes to, the other one gets it with the same id.
        for small in (two.one, two.other):
            small.refuse["IssueCertificate"] = [grpc.StatusCode.UNAVAILABLE]
        answer = await client.certificates.IssueCertificate(
            messages.IssueCertificateRequest(user="users/alice", csr_pem=make_key_and_request("alice").csr_pem.decode())
        )
        assert answer.certificate.pem
        asked = two.one.asked("IssueCertificate") + two.other.asked("IssueCertificate")
        assert len(asked) == 3
        assert len({seen.request.request_id for seen in asked} - {""}) == 1
        two.one.refuse["ReinstateCertificate"] = two.other.refuse["ReinstateCertificate"] = [
            grpc.StatusCode.UNAVAILABLE
        ]
        with pytest.raises(Unavailable) as lost:
            await client.certificates.ReinstateCertificate(messages.ReinstateCertificateRequest(name="certificates/c0"))
        assert lost.value.reason == Reason.CONNECTION_LOST
    async with HandclaspClient(tls=tls, certificates=f"{free_address()},{two.one.tls},{free_address()}") as client:
        # Nothing was sent to where nobody is, so whatever it is goes on.
        for _ in range(4):
            await client.certificates.ReinstateCertificate(messages.ReinstateCertificateRequest(name="certificates/c0"))
    # One whose answer was lost may have been carried out, whatever the others say after it.
    async with HandclaspClient(tls=tls, certificates=f"{two.one.tls},{free_address()}", timeout=3) as client:
        two.one.refuse["IssueCertificate"] = [grpc.StatusCode.UNAVAILABLE] * 20
        with pytest.raises(Unavailable) as doubtful:
            await client.certificates.IssueCertificate(messages.IssueCertificateRequest(user="users/alice"))
    assert doubtful.value.reason == Reason.CONNECTION_LOST
    nobody = (free_address(), free_address())
    async with HandclaspClient(tls=tls, certificates=",".join(nobody)) as client:
        with pytest.raises(Unavailable) as unreachable:
            await client.certificates.GetTrustBundle(BUNDLE)
    assert unreachable.value.reason == Reason.SERVER_UNREACHABLE
    assert any(address in unreachable.value.message for address in nobody)


async def test_a_channel_that_is_closed_meanwhile_is_passed_over(two: Two) -> None:
    credentials = grpc.ssl_channel_credentials(two.one.root.pem.encode())
    channels = [grpc.aio.secure_channel(address, credentials) for address in (two.silent, two.one.tls)]
    async with FailoverChannel(channels, Rotation(2, spread=False)) as channel:
        stub = CertificateServiceStub(channel)
        call = asyncio.ensure_future(stub.GetTrustBundle(BUNDLE, timeout=20))
        await asyncio.sleep(0.2)
        await channels[0].close()
        async with asyncio.timeout(2):
            await call
        await stub.GetTrustBundle(BUNDLE, timeout=20)
        await channels[1].close()
        with pytest.raises(asyncio.CancelledError):
            await stub.GetTrustBundle(BUNDLE, timeout=1)


async def test_who_leaves_ends_the_attempt_and_begins_no_other(two: Two) -> None:
    stub = two.stub(two.silent, two.one.tls)
    call = asyncio.ensure_future(stub.GetTrustBundle(BUNDLE, timeout=20))
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.1)
    assert not two.one.seen
