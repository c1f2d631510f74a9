"""Certificates on hold, and those that were renewed from another one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _code_point_ordered() -> sa.types.TypeEngine[str]:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    # Columns that may be null are added without copying the table, on SQLite too.
    with op.batch_alter_table("certificates") as certificates:
        certificates.add_column(sa.Column("hold_time", sa.BigInteger(), nullable=True))
        certificates.add_column(sa.Column("held_by", _code_point_ordered(), nullable=True))
        certificates.add_column(sa.Column("renewed_from", _code_point_ordered(), nullable=True))
    op.create_index(
        "ix_certificates_on_hold",
        "certificates",
        ["id"],
        unique=False,
        sqlite_where=sa.text("hold_time IS NOT NULL"),
        postgresql_where=sa.text("hold_time IS NOT NULL"),
    )
