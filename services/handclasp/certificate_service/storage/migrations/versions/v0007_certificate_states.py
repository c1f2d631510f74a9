"""An index that has all that the state of a certificate follows from, in place of one of its end only."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# An older version runs the same queries, by this index.
side_by_side = True


def upgrade() -> None:
    op.create_index(
        "ix_certificates_states",
        "certificates",
        ["trusted_until", "not_before", "revoke_time", "hold_time"],
        unique=False,
    )
    op.drop_index(op.f("ix_certificates_trusted_until"), table_name="certificates")
