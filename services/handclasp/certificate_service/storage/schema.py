"""The tables. `migrations/` makes them; a test holds the two against each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970 in UTC: the same order and precision in both databases."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# Ids are compared by code point everywhere; PostgreSQL's default order depends on its locale.
Identifier = String(64).with_variant(String(64, collation="C"), "postgresql")
Hexadecimal = String(64).with_variant(String(64, collation="C"), "postgresql")

ServerName = String(253).with_variant(String(253, collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# What holds for the whole installation: its trust domain, the key of its page tokens.
installation = Table(
    "installation",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# The CAs of this service: the root, and an issuing CA for each replica that made one. Their keys are files, each on one
# machine; the row names the file and is written after it.
authorities = Table(
    "authorities",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("key_file", String(255), nullable=False),
    Column("create_time", Moment, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("password_hash", Text),
    Column("create_time", Moment, nullable=False),
    Column("update_time", Moment, nullable=False),
    Column("disable_time", Moment),
)

access_profiles = Table(
    "access_profiles",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("description", Text, nullable=False),
    Column("built_in", Boolean, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("update_time", Moment, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("profile_id", Identifier, ForeignKey("access_profiles.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("permission", String(64), nullable=False),
    Column("pattern", String(256), nullable=False),
)

user_profiles = Table(
    "user_profiles",
    metadata,
    Column("user_id", Identifier, ForeignKey("users.id"), primary_key=True),
    Column("profile_id", Identifier, ForeignKey("access_profiles.id"), primary_key=True, index=True),
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id"), nullable=False),
    Column("origin", String(16), nullable=False),
    Column("serial", Hexadecimal, nullable=False, index=True),
    Column("fingerprint", Hexadecimal, nullable=False, unique=True),
    Column("tbs_fingerprint", Hexadecimal, nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("key_algorithm", String(32), nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("trusted_until", Moment, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("chain_pem", Text, nullable=False),
    Column("anchor_fingerprint", Hexadecimal),
    Column("create_time", Moment, nullable=False),
    Column("update_time", Moment, nullable=False),
    Column("created_by", Identifier, nullable=False),
    Column("created_with", Identifier, nullable=False),
    Column("description", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("revoke_time", Moment),
    Column("revocation_reason", String(32)),
    Column("revoked_by", Identifier),
    Column("hold_time", Moment),
    Column("held_by", Identifier),
    Column("renewed_from", Identifier),
    Index(None, "user_id", "id"),
    # All that the state follows from, so that counting by state reads nothing else.
    Index("ix_certificates_states", "trusted_until", "not_before", "revoke_time", "hold_time"),
)

# Pages of revoked certificates, and of those on hold, which are few among many.
Index(
    "ix_certificates_revoked",
    certificates.c.id,
    sqlite_where=certificates.c.revoke_time.is_not(None),
    postgresql_where=certificates.c.revoke_time.is_not(None),
)
Index(
    "ix_certificates_on_hold",
    certificates.c.id,
    sqlite_where=certificates.c.hold_time.is_not(None),
    postgresql_where=certificates.c.hold_time.is_not(None),
)

# The server names of certificates that were issued here. One that is vouched for may be in force elsewhere, too.
server_names = Table(
    "server_names",
    metadata,
    Column("name", ServerName, primary_key=True),
    Column("certificate_id", Identifier, ForeignKey("certificates.id"), primary_key=True, index=True),
    Column("vouched", Boolean, nullable=False),
)

trust_anchors = Table(
    "trust_anchors",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("fingerprint", Hexadecimal, nullable=False, unique=True),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("created_by", Identifier, nullable=False),
)

# Answers that a retry with the same request_id gets again.
requests = Table(
    "requests",
    metadata,
    Column("caller", Identifier, primary_key=True),
    Column("method", String(64), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("request_hash", Hexadecimal, nullable=False),
    Column("certificate_id", Identifier, nullable=False),
    Column("create_time", Moment, nullable=False, index=True),
)

# One-time tokens for a first certificate; of each only a hash. What it gave is kept until it is long expired.
enrollment_tokens = Table(
    "enrollment_tokens",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("token_hash", Hexadecimal, nullable=False, unique=True),
    Column("purpose", String(16), nullable=False),
    Column("user_id", Identifier, ForeignKey("users.id"), nullable=False, index=True),
    Column("server_names", Text, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("expire_time", Moment, nullable=False, index=True),
    Column("created_by", Identifier, nullable=False, index=True),
    Column("created_with", Identifier, nullable=False),
    Column("use_time", Moment),
    Column("key_hash", Hexadecimal),
    Column("given_id", Identifier),
)

denials = Table(
    "denials",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("reason", String(32), nullable=False),
    Column("rule", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("certificate_id", Identifier, nullable=False),
    Column("permission", String(64), nullable=False),
    Column("resource", Text, nullable=False),
    Column("relying_party", Identifier, nullable=False),
    Column("peer_address", Text, nullable=False),
    Column("fingerprint", Hexadecimal, nullable=False),
    Column("first_time", Moment, nullable=False),
    Column("last_time", Moment, nullable=False),
    Column("occurrences", BigInteger, nullable=False),
)

# What was refused otherwise: TLS handshakes, and calls that nothing was decided about.
refusals = Table(
    "refusals",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("listener", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("relying_party", Identifier, nullable=False),
    Column("peer_address", Text, nullable=False),
    Column("fingerprint", Hexadecimal, nullable=False),
    Column("first_time", Moment, nullable=False),
    Column("last_time", Moment, nullable=False),
    Column("occurrences", BigInteger, nullable=False),
    Index(None, "relying_party", "id"),
)

# How far the history of changes goes: one row, locked by whoever moves it until the transaction is over.
revision_head = Table(
    "revision_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("mark", BigInteger, nullable=False),
)

# The newest revisions, and what changed in each: a JSON list of pairs of name and effect.
revisions = Table(
    "revisions",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("mark", BigInteger, nullable=False),
    Column("changes", Text, nullable=False),
)

# The processes that serve this database, and those that did a moment ago: each may have granted leases that last as
# long as its own. A row is renewed while its process runs, and deleted by others once its lease is over.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("lease_milliseconds", BigInteger, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),
    Column("watchers", BigInteger, nullable=False),
)
