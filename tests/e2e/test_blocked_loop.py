"""An integration holds up the event loop while something is taken away elsewhere: nothing is answered under that."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from handclasp.accounts.v1 import access_profile_pb2, account_service_pb2, user_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.context import load
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.errors import HandclaspError, PermissionDenied
from handclasp.integrations.v1 import integration_service_pb2 as messages
from tests.e2e.processes import Pair, environment, running_up

LEASE = 0.5
GRACE = 2.0
BLOCKED = 4.0
"""Seconds: a taking-away returns long before that, since the lease of a server that does not answer runs out; and so
does the grace."""

INTEGRATION = """
import time
from pydantic import BaseModel
from handclasp.authoring import integration

class Wish(BaseModel):
    seconds: float = 0
    fail: bool = False

class Secret(BaseModel):
    text: str

@integration(name="tests.block", version="1.0.0", timeout=60)
async def block(wish: Wish) -> Secret:
    time.sleep(wish.seconds)
    if wish.fail:
        raise RuntimeError("it failed")
    return Secret(text="secret that was computed")
"""
PASSWORD = "long enough for a test"
REGULAR = "accessProfiles/regular-user"


TakeAway = Callable[[HandclaspClient], Awaitable[object]]


@dataclass
class Blocking:
    """The pair, and a user for each test."""

    pair: Pair
    number: int = 0

    def administrator(self) -> HandclaspClient:
        """Connected beforehand: a command would take longer to start than the loop is blocked."""
        return HandclaspClient.from_context(load(self.pair.context_file))

    def new_caller(self, profile: str = "regular-user") -> Caller:
        self.number += 1
        user = f"caller-{self.number}"
        self.pair.json("user", "create", user, "--profile", profile)
        self.pair.json("cert", "issue", "--user", user, "--out", self.pair.folder / user)
        [certificate] = self.pair.json("cert", "list", "--user", user)["certificates"]
        folder = self.pair.folder / user
        tls = TlsMaterial(
            Path(self.pair.ready["ca_file"]).read_bytes(),
            (folder / "cert.pem").read_bytes(),
            (folder / "key.pem").read_bytes(),
        )
        return Caller(user, certificate["name"], tls, self.pair.ready["executions"])

    async def while_blocked(
        self, caller: Caller, take_away: TakeAway, *, fail: bool = False, password: str | None = None
    ) -> HandclaspError | str:
        """How a call ends during which the loop is blocked, and something taken away."""
        async with self.administrator() as admin, caller.client(password) as client:
            await admin.accounts.GetUser(account_service_pb2.GetUserRequest(name="users/admin"))
            await client.integrations.ExecuteIntegration(wish())
            began = time.monotonic()
            calling = asyncio.ensure_future(client.integrations.ExecuteIntegration(wish(BLOCKED, fail=fail)))
            await asyncio.sleep(0.3)
            await take_away(admin)
            returned = time.monotonic() - began
            try:
                outcome: HandclaspError | str = (await calling).output_json
            except HandclaspError as error:
                outcome = error
            lasted = time.monotonic() - began
        assert returned < BLOCKED <= lasted, f"taken away after {returned:.1f} s: nothing was tried"
        return outcome


@dataclass
class Caller:
    """Who runs the integration."""

    user: str
    certificate: str
    tls: TlsMaterial
    executions: str

    def client(self, password: str | None = None) -> HandclaspClient:
        basic = None if password is None else BasicCredentials(self.user, password)
        return HandclaspClient(tls=self.tls, executions=self.executions, basic=basic)


def wish(seconds: float = 0.0, *, fail: bool = False) -> messages.ExecuteIntegrationRequest:
    text = json.dumps({"seconds": seconds, "fail": fail})
    return messages.ExecuteIntegrationRequest(name="integrations/tests.block", input_json=text)


@pytest.fixture(scope="module")
def blocking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    folder = tmp_path_factory.mktemp("blocked")
    integrations = folder / "integrations"
    integrations.mkdir()
    (integrations / "block.py").write_text(INTEGRATION, encoding="utf-8")
    variables = environment(
        HANDCLASP_EXECUTIONS_INTEGRATIONS_FOLDER=integrations,
        HANDCLASP_EXECUTIONS_LEASE_GRACE=str(GRACE),
        HANDCLASP_CERTIFICATES_LEASE=str(LEASE),
        HANDCLASP_CERTIFICATES_PING_INTERVAL="0.1",
    )
    with running_up(folder, variables=variables) as pair:
        yield Blocking(pair)


def assert_withdrawn(outcome: HandclaspError | str) -> None:
    assert isinstance(outcome, PermissionDenied), outcome
    assert outcome.reason == "AUTHORIZATION_WITHDRAWN"


@pytest.mark.parametrize("fail", [False, True], ids=["output", "failure"])
async def test_a_revoked_caller_learns_nothing(blocking: Blocking, *, fail: bool) -> None:
    caller = blocking.new_caller()

    async def revoke(admin: HandclaspClient) -> None:
        await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=caller.certificate))

    assert_withdrawn(await blocking.while_blocked(caller, revoke, fail=fail))


@pytest.mark.parametrize("reinstated", [False, True])
async def test_a_caller_that_was_put_on_hold_learns_nothing(blocking: Blocking, *, reinstated: bool) -> None:
    caller = blocking.new_caller()

    async def hold(admin: HandclaspClient) -> None:
        await admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=caller.certificate))
        if reinstated:
            await admin.certificates.ReinstateCertificate(pb.ReinstateCertificateRequest(name=caller.certificate))

    assert_withdrawn(await blocking.while_blocked(caller, hold))


async def test_a_disabled_user_learns_nothing(blocking: Blocking) -> None:
    caller = blocking.new_caller()

    async def disable(admin: HandclaspClient) -> None:
        await admin.accounts.DisableUser(account_service_pb2.DisableUserRequest(name=f"users/{caller.user}"))

    assert_withdrawn(await blocking.while_blocked(caller, disable))


async def test_a_caller_whose_grant_is_gone_learns_nothing(blocking: Blocking) -> None:
    blocking.pair.json("profile", "create", "runs-it", "--grant", "EXECUTE_INTEGRATIONS=integrations/tests.*")
    caller = blocking.new_caller("runs-it")

    async def narrow(admin: HandclaspClient) -> None:
        profile = access_profile_pb2.AccessProfile(name="accessProfiles/runs-it")
        await admin.accounts.UpdateAccessProfile(
            account_service_pb2.UpdateAccessProfileRequest(
                access_profile=profile, update_mask=FieldMask(paths=["grants"])
            )
        )

    assert_withdrawn(await blocking.while_blocked(caller, narrow))


async def test_a_caller_by_a_password_that_was_changed_learns_nothing(blocking: Blocking) -> None:
    caller = blocking.new_caller()

    async def set_password(admin: HandclaspClient, password: str = f"{PASSWORD}, another") -> None:
        await admin.accounts.SetPassword(
            account_service_pb2.SetPasswordRequest(name=f"users/{caller.user}", new_password=password)
        )

    async with blocking.administrator() as admin:
        await set_password(admin, PASSWORD)
    assert_withdrawn(await blocking.while_blocked(caller, set_password, password=PASSWORD))


async def test_who_lost_nothing_gets_the_output(blocking: Blocking) -> None:
    """The lease ran out meanwhile, too: the answer waits for a new one, and for what has changed."""
    caller, other = blocking.new_caller(), blocking.new_caller()

    async def change(admin: HandclaspClient) -> None:
        await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=other.certificate))
        user = user_pb2.User(name=f"users/{caller.user}", display_name="Somebody", access_profiles=[REGULAR])
        await admin.accounts.UpdateUser(
            account_service_pb2.UpdateUserRequest(
                user=user, update_mask=FieldMask(paths=["display_name", "access_profiles"])
            )
        )

    assert await blocking.while_blocked(caller, change) == '{"text":"secret that was computed"}'
