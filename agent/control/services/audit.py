"""The audit log: changes of keys, users, members, queues and policies, and sign-ins."""

import hashlib
import inspect
import json
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from pydantic import TypeAdapter

from agent.control.auth.policy import Action, CredentialKind, Principal
from agent.control.services.context import Service, read
from agent.control.services.paging import Page, cursor, page_of, page_size
from agent.control.store import audit, idempotency
from agent.control.store.audit import AuditRecord
from agent.control.store.tx import Tx
from agent.model.errors import LaunchError, PermissionDeniedError
from agent.model.spec import Json

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Service)

DONE: Final = "done"
#: Refusals that are recorded; other errors say that nothing was tried.
_REFUSALS: Final = frozenset({"FORBIDDEN", "NOT_FOUND", "CONFLICT", "ALREADY_EXISTS"})
_MAX_TEXT_CHARS: Final = 200


class Audit(Service):
    """Reading the log; services write it in the transaction of the change."""

    @read
    def list(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None = None,
        *,
        after: str | None = None,
        first: int = 100,
    ) -> Page[AuditRecord]:
        """Newest first: of an entity for its administrators, else of the whole server.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        size, before = page_size(first), cursor(after)
        if entity is None:
            self._server_administrators_only(principal)
        else:
            entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_MEMBERS)
        rows, total = audit.page(tx, entity, before, size + 1)
        return page_of(rows, size, total, lambda record: record.seq)

    @read
    def first_changed(self, tx: Tx, principal: Principal) -> int | None:
        """The number of the first entry that is not as it was written; `None`: all are."""
        self._server_administrators_only(principal)
        return audit.first_changed(tx)

    def _server_administrators_only(self, principal: Principal) -> None:
        if not principal.admin:
            raise PermissionDeniedError(
                f"{principal.name} may not read the audit log of the server.",
                hint="Name an entity that you administer: `launch audit --entity NAME`.",
            )


def entry(
    principal: Principal, action: str, entity: str | None, details: Json, result: str = DONE
) -> dict[str, Any]:
    """What `store.audit.append` writes about a caller's act."""
    return {
        "actor": principal.name,
        "key_id": principal.key_id if principal.kind is not CredentialKind.RUN else None,
        "action": action,
        "entity": entity,
        "details": details,
        "address": principal.address,
        "result": result,
    }


def audited(
    action: str, *, repeatable: bool = False
) -> Callable[
    [Callable[Concatenate[S, Tx, Principal, P], T]],
    Callable[Concatenate[S, Principal, P], Coroutine[Any, Any, T]],
]:
    """As `write`, and the audit log has the call: with the change itself, or its refusal.

    Details are those of its arguments that are texts, numbers, switches or lists of texts.
    `repeatable`: a request whose answer was lost, sent again with its idempotency key within
    24 hours, changes nothing and gets the same result; without that it would be refused.
    """

    def decorate(
        method: Callable[Concatenate[S, Tx, Principal, P], T],
    ) -> Callable[Concatenate[S, Principal, P], Coroutine[Any, Any, T]]:
        signature = inspect.signature(method)
        result_type: TypeAdapter[T] | None = (
            TypeAdapter(signature.return_annotation) if repeatable else None
        )

        @wraps(method)
        async def run(self: S, principal: Principal, /, *args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(self, None, principal, *args, **kwargs).arguments
            details = {name: _detail(one) for name, one in given.items() if _is_detail(one)}
            named = details.pop("entity", None) or (
                principal.default_entity if "entity" in signature.parameters else None
            )
            database = self._context.database

            def change(tx: Tx) -> T:
                result = method(self, tx, principal, *args, **kwargs)
                entity = named or getattr(getattr(result, "record", result), "entity", None)
                audit.append(tx, entry(principal, action, entity, details))
                return result

            def change_once(tx: Tx, results: TypeAdapter[T]) -> T:
                place = principal.default_entity, _repeat_key(principal, action, given)
                stored = idempotency.reserve(tx, *place, b"")
                if stored is not None:
                    return results.validate_python(stored.reply)
                result = change(tx)
                idempotency.keep_reply(tx, *place, results.dump_python(result, mode="json"))
                return result

            try:
                if result_type is not None and principal.idempotency_key is not None:
                    return await database.write(lambda tx: change_once(tx, result_type))
                return await database.write(change)
            except LaunchError as error:
                if error.code in _REFUSALS:
                    refused = entry(principal, action, named, details, error.code)
                    await database.write(lambda tx: audit.append(tx, refused))
                raise

        return run

    return decorate


def _repeat_key(principal: Principal, action: str, given: Json) -> str:
    """Equal for a request and its repeats; other callers, calls and arguments have others."""
    arguments = {
        name: one for name, one in given.items() if name not in {"self", "tx", "principal"}
    }
    request = [principal.key_id, principal.idempotency_key, action, arguments]
    return f"request-{hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()}"


def _is_detail(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, str | int | float)


def _detail(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, list | tuple):
        return [str(one)[:_MAX_TEXT_CHARS] for one in value]
    return value[:_MAX_TEXT_CHARS] if isinstance(value, str) else value
