"""Runs migrations inside the transaction that `agent.control.store.migrate` has open."""

from typing import Any, Literal

from alembic import context

from agent.control.store.run_tables import metadata
from agent.control.store.tables import JsonText, PlainText


def render(kind: str, value: Any, _: object) -> str | Literal[False]:
    """Write plain types into new migrations: they must outlive the classes of today."""
    return "sa.Text()" if kind == "type" and isinstance(value, JsonText | PlainText) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_item=render,
)
context.run_migrations()
