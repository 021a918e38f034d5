"""What queues are made of, and the queue that is made on demand. Inside transactions."""

import re
from typing import Any, Final

from agent.control.auth.policy import Principal
from agent.control.services.context import Context
from agent.control.services.notifications import topic_entity
from agent.control.store import queues
from agent.control.store.ids import new_id
from agent.control.store.records import QueueRecord
from agent.control.store.tx import Tx
from agent.model.errors import AlreadyExistsError, InvalidInputError

DEFAULT_QUEUE: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def check_queue_name(name: str) -> str:
    """A name that pages, commands and W&B's clients can carry.

    Raises:
        InvalidInputError
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the name of a queue.",
            hint="1 to 64 letters, digits, blanks, `.`, `_`, `-`; first a letter or digit.",
        )
    return name


def insert_queue(
    tx: Tx, entity: str, name: str, created_by: str, values: dict[str, Any] | None = None
) -> QueueRecord:
    """Make a queue; what `values` leaves out takes its default.

    Raises:
        AlreadyExistsError: the name is taken.
    """
    whole = {
        "id": new_id(),
        "entity": entity,
        "name": name,
        "access": "PROJECT",
        "created_by": created_by,
        "resource": None,
        "config": {},
        "template_variables": {},
        "prioritization": "V0",
        "paused": False,
        **(values or {}),
    }
    inserted = queues.insert(tx, whole)
    made = queues.by_name(tx, entity, name)
    if not inserted or made is None:
        raise AlreadyExistsError(
            f"There is a queue '{name}' in '{entity}' already.",
            hint="Take another name, or change that one: `launch queue update`.",
        )
    tx.notify(topic_entity(entity))
    return made


def queue_on_demand(
    tx: Tx, context: Context, principal: Principal, entity: str, name: str
) -> QueueRecord:
    """A queue by name; `default` is made when it does not exist.

    Raises:
        NotFoundError: any other name; near misses are offered.
    """
    if name == DEFAULT_QUEUE and queues.by_name(tx, entity, name) is None:
        return insert_queue(tx, entity, name, principal.name)
    return context.queue(tx, entity, name)
