"""Alembic's entry point: runs on the connection that `migrate` hands over."""

from alembic import context

from handclasp.certificate_service.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes tables by copying them.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
