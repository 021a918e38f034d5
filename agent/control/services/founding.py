"""Making users, entities and keys, inside transactions."""

import re
from typing import Final, Literal

from agent.control.services.authenticating import digest
from agent.control.store import people, projects
from agent.control.store.ids import new_api_key, new_id
from agent.control.store.records import EntityRecord, NewKey, Role, UserRecord
from agent.control.store.tx import Tx
from agent.model.errors import AlreadyExistsError, InvalidInputError

#: Where W&B's clients look for an entity's queues.
QUEUE_PROJECT: Final = "model-registry"
FIRST_PROJECT: Final = "default"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HINT: Final = 4


def check_name(name: str, what: str) -> str:
    """A name for users and entities: it appears in addresses and paths.

    Raises:
        InvalidInputError
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the name of a {what}.",
            hint="1 to 64 lower-case letters, digits, `_`, `-`; first a letter or digit.",
        )
    return name


def found_entity(tx: Tx, name: str, *, is_team: bool) -> EntityRecord:
    """Make an entity with the projects that clients expect.

    Raises:
        AlreadyExistsError
    """
    if not people.insert_entity(tx, name, new_id(), is_team=is_team):
        raise AlreadyExistsError(f"There is an entity '{name}' already.", hint="Take another name.")
    for project in (QUEUE_PROJECT, FIRST_PROJECT):
        projects.ensure(tx, name, project)
    return people.sure_entity(tx, name)


def found_user(tx: Tx, name: str, *, email: str | None, admin: bool) -> UserRecord:
    """Make a user, the personal entity, and the membership between them.

    Raises:
        AlreadyExistsError, InvalidInputError
    """
    found_entity(tx, check_name(name, "user"), is_team=False)
    made = people.insert_user(tx, new_id(), name, email=email, admin=admin)
    if made is None:
        raise AlreadyExistsError(f"There is a user '{name}' already.", hint="Take another name.")
    people.set_role(tx, made.entity, made.id, Role.ADMIN)
    return made


def make_key(
    tx: Tx,
    kind: Literal["user", "agent"],
    name: str,
    *,
    user_id: str | None = None,
    entity: str | None = None,
    queues: tuple[str, ...] | None = None,
) -> NewKey:
    """Make a key; only its hash is kept."""
    secret = new_api_key()
    values = {
        "id": new_id(),
        "hash": digest(secret),
        "kind": kind,
        "name": name,
        "hint": secret[-_HINT:],
        "user_id": user_id,
        "entity": entity,
        "queues": None if queues is None else list(queues),
    }
    return NewKey(people.insert_key(tx, values), secret)
