"""Free aliases of artifacts: each stands for one version of its collection."""

from collections.abc import Collection, Iterable

from sqlalchemy import delete, select, update

from agent.control.store.artifact_tables import artifact_aliases
from agent.control.store.tx import Tx


def put(tx: Tx, collection_id: str, artifact_id: str, aliases: Iterable[str]) -> None:
    """Let aliases stand for a version, whatever they stood for before."""
    table = artifact_aliases.c
    for alias in aliases:
        values = {"artifact_id": artifact_id, "created_at": tx.now}
        key = {"collection_id": collection_id, "alias": alias}
        if not tx.insert_new(artifact_aliases, {**key, **values}):
            where = (
                table.collection_id == collection_id,
                table.alias == alias,
                table.artifact_id != artifact_id,
            )
            tx.run(update(artifact_aliases).where(*where).values(values))


def take(tx: Tx, artifact_id: str, aliases: Collection[str] | None = None) -> int:
    """Take aliases away from a version, all for `None`; how many it had of them."""
    table = artifact_aliases.c
    where = [table.artifact_id == artifact_id]
    if aliases is not None:
        where.append(table.alias.in_(aliases))
    return tx.changed(delete(artifact_aliases).where(*where))


def of_collection(tx: Tx, collection_id: str) -> list[tuple[str, str]]:
    """Aliases by name, each with its artifact's id."""
    table = artifact_aliases.c
    query = select(table.alias, table.artifact_id).where(table.collection_id == collection_id)
    return [(row.alias, row.artifact_id) for row in tx.all(query.order_by(table.alias))]
