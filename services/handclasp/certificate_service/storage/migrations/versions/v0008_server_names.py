"""Server names of certificates, so that one is found that another certificate has."""

import ipaddress

import sqlalchemy as sa
from alembic import op
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BATCH = 1000
# id-kp-serverAuth in DER (RFC 5280, section 4.2.1.12): certificates without it have no server names.
_SERVER_AUTH = bytes.fromhex("2b06010505070301")


def _code_point_ordered(length: int = 64) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    names = op.create_table(
        "server_names",
        sa.Column("name", _code_point_ordered(253), nullable=False),
        sa.Column("certificate_id", _code_point_ordered(), nullable=False),
        sa.Column("vouched", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name=op.f("fk_server_names_certificate_id")),
        sa.PrimaryKeyConstraint("name", "certificate_id", name=op.f("pk_server_names")),
    )
    op.create_index(op.f("ix_server_names_certificate_id"), "server_names", ["certificate_id"], unique=False)
    op.create_index(op.f("ix_enrollment_tokens_created_by"), "enrollment_tokens", ["created_by"], unique=False)
    _fill(op.get_bind(), names)


def _fill(connection: sa.Connection, names: sa.Table) -> None:
    """Whoever had a certificate issued counts as one who could vouch for its names if they are an administrator now, or
    the service itself; a successor is as good as what it renewed."""
    administrators = set(
        connection.execute(sa.text("SELECT user_id FROM user_profiles WHERE profile_id = 'administrator'")).scalars()
    )
    page = sa.text(
        "SELECT id, created_by, renewed_from, der FROM certificates"
        " WHERE id > :after AND origin <> 'UPLOADED' ORDER BY id LIMIT :limit"
    )
    vouched: dict[str, bool] = {}
    after = ""
    while rows := connection.execute(page, {"after": after, "limit": _BATCH}).all():
        after = rows[-1].id
        found = []
        for row in rows:
            texts = _server_names(bytes(row.der))
            if texts:
                # Ids are in the order of creation, so what was renewed came before.
                own = row.created_by == "" or row.created_by in administrators
                vouched[row.id] = vouched.get(row.renewed_from, False) if row.renewed_from else own
                found += [{"name": text, "certificate_id": row.id, "vouched": vouched[row.id]} for text in texts]
        op.bulk_insert(names, found)


def _server_names(der: bytes) -> list[str]:
    if _SERVER_AUTH not in der:
        return []
    extensions = x509.load_der_x509_certificate(der).extensions
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        return []
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found: list[str] = list(names.get_values_for_type(x509.DNSName))
    for address in names.get_values_for_type(x509.IPAddress):
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        found.append(str(mapped or address))
    return sorted(set(found))
