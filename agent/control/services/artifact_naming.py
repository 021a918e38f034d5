"""Names of artifacts: collections made on demand, references read, aliases moved."""

from collections.abc import Iterable, Sequence
from typing import Final

from agent.control.store import aliases, artifacts, collections
from agent.control.store.artifact_records import ArtifactRecord, CollectionRecord, NewArtifact
from agent.control.store.ids import new_id
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.names import LATEST, checked_alias, safe_name, version_of

_LONGEST: Final = 128
_FORBIDDEN: Final = frozenset("/\\:?#%\0")


def make_collection(tx: Tx, entity: str, wanted: NewArtifact) -> CollectionRecord:
    """The collection of that name, made if need be.

    Raises:
        ConflictError: the name belongs to an artifact of another type.
        InvalidInputError: it cannot be a name.
    """
    name, kind = _checked(wanted.name, "name"), _checked(wanted.type, "type")
    place = {"entity": entity, "project": wanted.project, "name": name}
    found = collections.by_name(tx, **place)
    if found is None:
        collections.insert(tx, {"id": new_id(), "type": kind, **place})
        found = collections.require(tx, **place)
    if found.type != kind:
        raise ConflictError(
            f"'{name}' in {entity}/{wanted.project} is an artifact of type `{found.type}`, "
            f"not of type `{kind}`.",
            hint=f"Choose another name, for example `{safe_name(f'{name}-{kind}')}`.",
        )
    return found


def give_aliases(tx: Tx, collection_id: str, artifact_id: str, names: Iterable[str]) -> None:
    """Let free aliases stand for a version; its own `v<N>`, which clients send too, is left out.

    Raises:
        InvalidInputError: one cannot be an alias.
    """
    wanted = dict.fromkeys(name for name in names if version_of(name) is None)
    aliases.put(tx, collection_id, artifact_id, [checked_alias(name) for name in wanted])


def check_aliases(names: Sequence[str]) -> tuple[str, ...]:
    """Free aliases that a new version shall have, before anything is uploaded.

    Raises:
        InvalidInputError: one cannot be an alias.
    """
    return tuple(checked_alias(name) for name in names if version_of(name) is None)


def find(tx: Tx, collection_id: str, alias: str) -> ArtifactRecord | None:
    """A committed version by its number (`v3`) or by a free alias."""
    version = version_of(alias)
    if version is not None:
        return artifacts.by_version(tx, collection_id, version)
    return artifacts.by_alias(tx, collection_id, alias)


def split_name(name: str) -> tuple[str, str]:
    """Collection and alias of `collection:alias`; `latest` without one."""
    collection, colon, alias = name.partition(":")
    return collection, alias if colon and alias else LATEST


def _checked(name: str, what: str) -> str:
    if 0 < len(name) <= _LONGEST and name.strip() == name and not _FORBIDDEN & set(name):
        return name
    raise InvalidInputError(
        f"'{name[:_LONGEST]}' cannot be the {what} of an artifact.",
        hint=f"1 to {_LONGEST} characters without `/ \\ : ? # %`.",
    )
