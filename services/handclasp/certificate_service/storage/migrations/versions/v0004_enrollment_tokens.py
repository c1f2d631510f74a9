"""Enrollment tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _code_point_ordered() -> sa.types.TypeEngine[str]:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "enrollment_tokens",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("token_hash", _code_point_ordered(), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("user_id", _code_point_ordered(), nullable=False),
        sa.Column("server_names", sa.Text(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("expire_time", sa.BigInteger(), nullable=False),
        sa.Column("created_by", _code_point_ordered(), nullable=False),
        sa.Column("created_with", _code_point_ordered(), nullable=False),
        sa.Column("use_time", sa.BigInteger(), nullable=True),
        sa.Column("key_hash", _code_point_ordered(), nullable=True),
        sa.Column("given_id", _code_point_ordered(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_enrollment_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrollment_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_enrollment_tokens_token_hash")),
    )
    op.create_index(op.f("ix_enrollment_tokens_expire_time"), "enrollment_tokens", ["expire_time"], unique=False)
    op.create_index(op.f("ix_enrollment_tokens_user_id"), "enrollment_tokens", ["user_id"], unique=False)
