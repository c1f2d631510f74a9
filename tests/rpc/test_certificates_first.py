import pytest

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_revoked_certificate_is_refused(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    identity = await installation.issue(alice)
    question = pb.CheckPermissionRequest(
        peer_certificate=identity.der,
        permission=permission_pb2.PERMISSION_EXECUTE_INTEGRATIONS,
        resource="integrations/echo",
    )
    assert (await installation.relying_party.certificates.CheckPermission(question)).allowed

    await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))

    decision = await installation.relying_party.certificates.CheckPermission(question)
    assert decision.reason == decision_pb2.DECISION_REASON_REVOKED
