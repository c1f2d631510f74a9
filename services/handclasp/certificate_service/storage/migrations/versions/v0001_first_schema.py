"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _code_point_ordered() -> sa.types.TypeEngine[str]:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_profiles",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("built_in", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_profiles")),
    )
    op.create_table(
        "authorities",
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("key_file", sa.String(length=255), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_authorities")),
    )
    op.create_table(
        "denials",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("certificate_id", _code_point_ordered(), nullable=False),
        sa.Column("permission", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("relying_party", _code_point_ordered(), nullable=False),
        sa.Column("peer_address", sa.Text(), nullable=False),
        sa.Column("fingerprint", _code_point_ordered(), nullable=False),
        sa.Column("first_time", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.BigInteger(), nullable=False),
        sa.Column("occurrences", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_denials")),
    )
    op.create_table(
        "installation",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installation")),
    )
    op.create_table(
        "requests",
        sa.Column("caller", _code_point_ordered(), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("request_hash", _code_point_ordered(), nullable=False),
        sa.Column("certificate_id", _code_point_ordered(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "method", "request_id", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_create_time"), "requests", ["create_time"], unique=False)
    op.create_table(
        "trust_anchors",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("fingerprint", _code_point_ordered(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("created_by", _code_point_ordered(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_anchors")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_trust_anchors_fingerprint")),
    )
    op.create_table(
        "users",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.Column("disable_time", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_table(
        "certificates",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("user_id", _code_point_ordered(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("serial", _code_point_ordered(), nullable=False),
        sa.Column("fingerprint", _code_point_ordered(), nullable=False),
        sa.Column("tbs_fingerprint", _code_point_ordered(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("key_algorithm", sa.String(length=32), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("trusted_until", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("chain_pem", sa.Text(), nullable=False),
        sa.Column("anchor_fingerprint", _code_point_ordered(), nullable=True),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.Column("created_by", _code_point_ordered(), nullable=False),
        sa.Column("created_with", _code_point_ordered(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("revoke_time", sa.BigInteger(), nullable=True),
        sa.Column("revocation_reason", sa.String(length=32), nullable=True),
        sa.Column("revoked_by", _code_point_ordered(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_certificates_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_certificates_fingerprint")),
        sa.UniqueConstraint("tbs_fingerprint", name=op.f("uq_certificates_tbs_fingerprint")),
    )
    op.create_index(
        "ix_certificates_revoked",
        "certificates",
        ["id"],
        unique=False,
        sqlite_where=sa.text("revoke_time IS NOT NULL"),
        postgresql_where=sa.text("revoke_time IS NOT NULL"),
    )
    op.create_index(op.f("ix_certificates_serial"), "certificates", ["serial"], unique=False)
    op.create_index(op.f("ix_certificates_trusted_until"), "certificates", ["trusted_until"], unique=False)
    op.create_index(op.f("ix_certificates_user_id_id"), "certificates", ["user_id", "id"], unique=False)
    op.create_table(
        "grants",
        sa.Column("profile_id", _code_point_ordered(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("permission", sa.String(length=64), nullable=False),
        sa.Column("pattern", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(["profile_id"], ["access_profiles.id"], name=op.f("fk_grants_profile_id")),
        sa.PrimaryKeyConstraint("profile_id", "position", name=op.f("pk_grants")),
    )
    op.create_table(
        "user_profiles",
        sa.Column("user_id", _code_point_ordered(), nullable=False),
        sa.Column("profile_id", _code_point_ordered(), nullable=False),
        sa.ForeignKeyConstraint(["profile_id"], ["access_profiles.id"], name=op.f("fk_user_profiles_profile_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_profiles_user_id")),
        sa.PrimaryKeyConstraint("user_id", "profile_id", name=op.f("pk_user_profiles")),
    )
    op.create_index(op.f("ix_user_profiles_profile_id"), "user_profiles", ["profile_id"], unique=False)
