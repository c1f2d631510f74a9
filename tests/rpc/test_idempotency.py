"""`request_id`: a retry returns what the first try made, and whatever is another request is one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import AlreadyExists, HandclaspError, InvalidArgument, PermissionDenied
from tests.rpc.certificate_harness import (
    at_once,
    beside,
    counts,
    pem,
    refusal,
    signing_request,
    trusted_ca,
    upload,
)
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

CSR = pem(signing_request())


def request(user_id: str, request_id: str, **fields: Any) -> pb.IssueCertificateRequest:
    key = {} if "generate_key" in fields else {"csr_pem": CSR}
    return pb.IssueCertificateRequest(**{"user": f"users/{user_id}", "request_id": request_id, **key, **fields})


async def test_a_retry_returns_the_same_certificate(installation: Installation) -> None:
    alice = await installation.new_user()
    issue = installation.admin.certificates.IssueCertificate
    wanted = request(alice, "r-1", lifetime=timedelta(days=1), labels={"b": "2", "a": "1"}, description="é")
    first = await issue(wanted)
    async with beside(installation) as database:
        before = await counts(database)
        assert await issue(wanted) == first
        same = request(alice, "r-1", lifetime=timedelta(days=1), labels={"a": "1", "b": "2"}, description="é")
        assert await issue(same) == first, "the order in a map is no part of a request"
        assert await counts(database) == before
    without_id = request(alice, "", lifetime=timedelta(days=1))
    assert (await issue(without_id)).certificate.name != (await issue(without_id)).certificate.name


async def test_the_answer_to_a_retry_is_how_things_are_now(installation: Installation) -> None:
    alice = await installation.new_user()
    admin = installation.admin.certificates
    first = await admin.IssueCertificate(request(alice, "r-2"))
    await admin.RevokeCertificate(pb.RevokeCertificateRequest(name=first.certificate.name))
    again = await admin.IssueCertificate(request(alice, "r-2"))
    assert again.certificate.name == first.certificate.name
    assert again.certificate.state == certificate_pb2.Certificate.STATE_REVOKED


@pytest.mark.parametrize(
    "changed",
    [
        {"csr_pem": pem(signing_request())},
        {"generate_key": pb.KEY_ALGORITHM_EC_P256},
        {"lifetime": timedelta(days=2)},
        {"description": "another"},
        {"labels": {"a": "1"}},
        {"user": "users/admin"},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_another_request_under_the_same_id_is_refused(
    installation: Installation, changed: dict[str, Any]
) -> None:
    alice = await installation.new_user()
    issue = installation.admin.certificates.IssueCertificate
    request_id = f"r-{alice}"
    await issue(request(alice, request_id))
    async with beside(installation) as database:
        before = await counts(database)
        error = await refusal(issue(request(alice, request_id, **changed)), AlreadyExists, "REQUEST_ID_REUSED")
        assert await counts(database) == before
    assert request_id in error.message


async def test_ids_are_the_callers_own(installation: Installation) -> None:
    one, two = await installation.new_user("regular-user"), await installation.new_user("regular-user")
    names = set()
    for user in (one, two):
        async with installation.client(await installation.issue(user)) as client:
            issued = await client.certificates.IssueCertificate(request(user, "mine"))
            names.add(issued.certificate.name)
    # The same request by somebody else is another one, too.
    again = await installation.admin.certificates.IssueCertificate(request(one, "mine"))
    names.add(again.certificate.name)
    assert len(names) == 3


async def test_ids_are_the_methods_own(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    alice = await installation.new_user()
    issued = await installation.admin.certificates.IssueCertificate(request(alice, "both"))
    uploaded = await upload(installation, alice, ca.issue(), request_id="both")
    assert uploaded.name != issued.certificate.name


async def test_concurrent_retries_make_one_certificate(installation: Installation) -> None:
    alice = await installation.new_user()
    by_csr = [installation.admin.certificates.IssueCertificate(request(alice, "c-1")) for _ in range(12)]
    answers = await at_once(*by_csr)
    assert len({answer.certificate.name for answer in answers}) == 1
    assert all(answer == answers[0] for answer in answers)

    with_key = request(alice, "c-2", generate_key=pb.KEY_ALGORITHM_EC_P256)
    made = await at_once(*(installation.admin.certificates.IssueCertificate(with_key) for _ in range(12)))
    assert len({answer.certificate.name for answer in made}) == 1
    custody = sorted(answer.key_custody for answer in made)
    assert custody == [pb.KEY_CUSTODY_RETURNED] + [pb.KEY_CUSTODY_KEY_NOT_RETAINED] * 11
    assert [bool(answer.private_key_pem) for answer in made].count(True) == 1
    stored = await installation.admin.certificates.ListCertificates(pb.ListCertificatesRequest(user=f"users/{alice}"))
    assert len(stored.certificates) == 2


async def test_of_concurrent_different_requests_one_wins(installation: Installation) -> None:
    alice = await installation.new_user()
    answers = await at_once(
        *(
            installation.admin.certificates.IssueCertificate(request(alice, "c-3", description=str(number)))
            for number in range(8)
        )
    )
    refused = [answer.reason for answer in answers if isinstance(answer, HandclaspError)]
    assert refused == ["REQUEST_ID_REUSED"] * 7
    stored = await installation.admin.certificates.ListCertificates(pb.ListCertificatesRequest(user=f"users/{alice}"))
    assert len(stored.certificates) == 1


async def test_a_refused_request_leaves_its_id_free(installation: Installation) -> None:
    alice = await installation.new_user()
    issue = installation.admin.certificates.IssueCertificate
    await refusal(issue(request(alice, "later", csr_pem="none")), InvalidArgument, "CSR_INVALID")
    user = account_service_pb2.DisableUserRequest(name=f"users/{alice}")
    await installation.admin.accounts.DisableUser(user)
    with pytest.raises(HandclaspError):
        await issue(request(alice, "later"))
    await installation.admin.accounts.EnableUser(account_service_pb2.EnableUserRequest(name=user.name))
    assert (await issue(request(alice, "later"))).certificate.user == f"users/{alice}"


async def test_a_retry_is_no_way_around_a_lost_permission(installation: Installation) -> None:
    profile = await installation.new_profile({"MANAGE_PERSONAL_SETUP": "*"})
    alice = await installation.new_user(profile)
    identity = await installation.issue(alice)
    async with installation.client(identity) as client:
        await client.certificates.IssueCertificate(request(alice, "then"))
        await installation.admin.accounts.UpdateAccessProfile(
            account_service_pb2.UpdateAccessProfileRequest(
                access_profile={"name": f"accessProfiles/{profile}"},  # type: ignore[arg-type]  # protobuf takes a dict
                update_mask={"paths": ["grants"]},  # type: ignore[arg-type]  # likewise
            )
        )
        await refusal(client.certificates.IssueCertificate(request(alice, "then")), PermissionDenied, "ACCESS_DENIED")
