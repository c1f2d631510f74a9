"""What tests of the certificate service share: refusals, uploads with their proofs, decisions, and what is on file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificate_service.storage.database import Database, Snapshot, open_database
from handclasp.certificate_service.storage.schema import (
    access_profiles,
    authorities,
    certificates,
    metadata,
    trust_anchors,
    users,
)
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.possession import make_statement, sign_statement
from handclasp.errors import HandclaspError
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import Issued, OutsideCA, name

TRUST_DOMAIN = "handclasp.local"
"""The default, which installations of tests keep."""
EXECUTE = permission_pb2.PERMISSION_EXECUTE_INTEGRATIONS


async def refusal(call: Awaitable[Any], kind: type[HandclaspError], reason: str) -> HandclaspError:
    """The error that a call must end with."""
    with pytest.raises(kind) as caught:
        await call
    assert caught.value.reason == reason, caught.value
    return caught.value


def signing_request(
    key: Any = None, *, subject: str = "somebody", extensions: Iterable[tuple[x509.ExtensionType, bool]] = ()
) -> x509.CertificateSigningRequest:
    """A request for a key, a new one if none is given."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(subject))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    own_key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(own_key, hashes.SHA256())


def pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(serialization.Encoding.DER)


async def add_anchor(installation: Installation, ca: OutsideCA, display_name: str = "") -> str:
    """Makes a CA a trust anchor; returns the anchor's name."""
    added = await installation.admin.certificates.AddTrustAnchor(
        pb.AddTrustAnchorRequest(pem=ca.pem, display_name=display_name)
    )
    return added.name


async def trusted_ca(installation: Installation, common_name: str = "Partner CA") -> OutsideCA:
    """A fresh outside CA that is a trust anchor."""
    ca = OutsideCA(common_name, now=installation.clock())
    await add_anchor(installation, ca)
    return ca


async def upload(
    installation: Installation, user_id: str, leaf: Issued, client: HandclaspClient | None = None, **fields: Any
) -> certificate_pb2.Certificate:
    """Puts a leaf on file; by the administrator if no client is given."""
    sender = client or installation.admin
    return await sender.certificates.UploadCertificate(upload_request(user_id, leaf, **fields))


def upload_request(user_id: str, leaf: Issued, **fields: Any) -> pb.UploadCertificateRequest:
    return pb.UploadCertificateRequest(**{"user": f"users/{user_id}", "pem": leaf.pem, **fields})


def possession(
    user_id: str,
    leaf: Issued,
    *,
    at: datetime | None = None,
    key: Any = None,
    trust_domain: str = TRUST_DOMAIN,
    said_user: str | None = None,
    certificate: bytes | None = None,
) -> pb.PossessionProof:
    """A proof that holds, unless an argument makes it say something else, or has another key sign it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(leaf.der if certificate is None else certificate)
    statement = make_statement(
        trust_domain=trust_domain,
        user_id=said_user or user_id,
        fingerprint=digest.finalize().hex(),
        signed_at=at or datetime.now(UTC),
    )
    return pb.PossessionProof(statement=statement, signature=sign_statement(key or leaf.key, statement))


def held(leaf: Issued, certificate_name: str = "") -> Identity:
    """An outside leaf as an identity that clients present."""
    return Identity(certificate_name, leaf.pem.encode(), leaf.key_pem.encode())


async def decide(
    installation: Installation, leaf: bytes, resource: str = "integrations/echo", **fields: Any
) -> decision_pb2.Decision:
    """The service's answer to the relying party, whether the leaf's peer may execute that integration."""
    return await installation.relying_party.certificates.CheckPermission(
        pb.CheckPermissionRequest(
            **{"peer_certificate": leaf, "permission": EXECUTE, "resource": resource, **fields},
        )
    )


async def why(installation: Installation, leaf: bytes, **fields: Any) -> str:
    """The decision's reason, less its prefix."""
    decision = await decide(installation, leaf, **fields)
    assert decision.allowed is (decision.reason == decision_pb2.DECISION_REASON_ALLOWED)
    return decision_pb2.DecisionReason.Name(decision.reason).removeprefix("DECISION_REASON_")


@asynccontextmanager
async def beside(installation: Installation) -> AsyncIterator[Database]:
    """The installation's database, by connections of the test's own."""
    database = open_database(installation.settings.url(), readers=1)
    try:
        yield database
    finally:
        await database.close()


async def counts(database: Database) -> Mapping[str, int]:
    """How many rows there are of what can be put on file."""

    async def count(snapshot: Snapshot) -> dict[str, int]:
        tables = (users, access_profiles, certificates, trust_anchors, authorities)
        columns = [select(func.count()).select_from(table).scalar_subquery().label(table.name) for table in tables]
        return dict((await snapshot.fetch(select(*columns))).one()._mapping)

    return await database.read(count)


async def everything_stored(database: Database) -> bytes:
    """Every value in every table, as bytes."""

    async def read(snapshot: Snapshot) -> list[bytes]:
        values = []
        for table in metadata.sorted_tables:
            for row in await snapshot.fetch(select(table)):
                values += [value if isinstance(value, bytes) else str(value).encode() for value in row]
        return values

    return b"\n".join(await database.read(read))


async def at_once(*calls: Awaitable[Any]) -> list[Any]:
    """What concurrent calls return or raise, in their order."""
    return await asyncio.gather(*calls, return_exceptions=True)
