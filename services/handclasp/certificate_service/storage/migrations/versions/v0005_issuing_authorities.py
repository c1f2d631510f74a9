"""Several issuing CAs, one for each replica that made its own; before, there was one CA of each role."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _code_point_ordered() -> sa.types.TypeEngine[str]:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    known = op.get_bind().execute(sa.text("SELECT role, der, key_file, create_time FROM authorities")).all()
    # Made anew, since SQLite changes no primary key. There are two rows.
    op.drop_table("authorities")
    authorities = op.create_table(
        "authorities",
        sa.Column("id", _code_point_ordered(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("key_file", sa.String(length=255), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorities")),
    )
    rows = [
        {
            # The file has the id in its name: `issuing-{id}.pem`.
            "id": row.key_file.removeprefix(f"{row.role}-").removesuffix(".pem"),
            "role": row.role,
            "der": row.der,
            "key_file": row.key_file,
            "create_time": row.create_time,
        }
        for row in known
    ]
    op.bulk_insert(authorities, rows)
