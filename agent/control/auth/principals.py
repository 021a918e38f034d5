"""Who a credential stands for, as the store has it in this transaction."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from agent.control.auth.policy import Action, CredentialKind, Policy, Principal, RunScope
from agent.control.store import accounts, artifacts, history
from agent.control.store.accounts import Role
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import InvalidInputError
from agent.model.job.names import parse_code_reference, parse_reference
from agent.model.phase import HELD, Phase
from agent.model.spec import Json

_SCHEME: Final = "wandb-artifact://"
#: Of a value of `run_config` that stands for an artifact, as W&B's clients write it.
_VALUE_TYPE: Final = "artifactVersion"


def by_key(tx: Tx, row: AnyRow | None) -> Principal | None:
    """The user or the agent of a valid key's row."""
    if row is None:
        return None
    if row.kind == "user":
        user = by_user(tx, row.user_id)
        return None if user is None else replace(user, key_id=row.id)
    return Principal(
        kind=CredentialKind.AGENT,
        key_id=row.id,
        name=row.name,
        default_entity=row.entity,
        queues=None if row.queues is None else tuple(row.queues),
    )


def by_user(tx: Tx, user_id: str | None) -> Principal | None:
    """A user with the rights of now, whatever key is used; `None` when absent or disabled."""
    rows = [] if user_id is None else accounts.user_with_roles(tx, user_id)
    if not rows:
        return None
    memberships = [row for row in rows if row.entity is not None]
    return Principal(
        kind=CredentialKind.USER,
        key_id="",
        name=rows[0].name,
        default_entity=rows[0].home,
        user_id=user_id,
        admin=rows[0].admin,
        roles={each.entity: Role(each.role) for each in memberships},
        teams=frozenset(each.entity for each in memberships if each.is_team),
    )


def by_attempt(
    tx: Tx, policy: Policy, attempt_id: int, epoch: int, grace: float
) -> Principal | None:
    """The run of a token, while its attempt is held, and `grace` seconds after its end.

    Its author must still be allowed to write runs there.
    """
    row = history.attempt_by_token(tx, attempt_id)
    if row is None or row.token_epoch != epoch:
        return None
    over = row.finished_at is not None and row.finished_at + grace < tx.now
    waits = row.finished_at is None and Phase(row.phase) not in HELD
    user = None if over or waits else by_user(tx, row.author_id)
    if user is None or not policy.allows(user, row.run_entity, Action.WRITE_RUNS):
        return None
    named = input_paths(tx, row.run_spec, row.run_entity, row.project)
    return Principal(
        kind=CredentialKind.RUN,
        key_id=row.item_id,
        name=f"run {row.run_name}",
        default_entity=row.run_entity,
        run=RunScope(
            row.item_id,
            row.number,
            row.project,
            row.run_name,
            frozenset(
                path
                for path in named
                if policy.allows(user, path.partition("/")[0], Action.READ_PROJECT)
            ),
        ),
    )


def input_paths(tx: Tx, run_spec: Json, entity: str, project: str) -> set[str]:
    """`entity/project/name` of the artifacts that a launch spec names as the run's inputs.

    Those are its job, the job's code, the slots of `overrides.artifacts`, and artifacts among the
    values of `overrides.run_config`.
    """
    overrides = run_spec.get("overrides")
    given: Json = overrides if isinstance(overrides, dict) else {}
    slots = given.get("artifacts")
    named = [*_code(run_spec), *(slots.values() if isinstance(slots, dict) else ())]
    paths, ids = set[str](), set[str]()
    for text in named:
        if isinstance(text, str) and text:
            _add_reference(text, entity, project, paths, ids)
    for text in _references([slots, given.get("run_config")]):
        _add_reference(text, entity, project, paths, ids)
    if ids:
        paths |= {each.collection.path for each in artifacts.by_ids(tx, ids)}
    return paths


def source_entities(tx: Tx, run_spec: Json, entity: str) -> set[str]:
    """Entities whose code a launch spec runs: of its job, and of a code artifact."""
    paths, ids = set[str](), set[str]()
    for text in _code(run_spec):
        if isinstance(text, str) and text:
            _add_reference(text, entity, "", paths, ids)
    found = {each.collection.entity for each in artifacts.by_ids(tx, ids)} if ids else set()
    return found | {path.partition("/")[0] for path in paths}


def _code(run_spec: Json) -> tuple[Any, Any]:
    """References of the job and of its code artifact, as they were given."""
    source = run_spec.get("source")
    return run_spec.get("job"), source.get("artifact") if isinstance(source, dict) else None


def _add_reference(text: str, entity: str, project: str, paths: set[str], ids: set[str]) -> None:
    """Add what a reference names; other texts name nothing."""
    try:
        if text.startswith(f"{_SCHEME}_id/"):
            ids.add(str(parse_code_reference(text).id))
        else:
            paths.add(parse_reference(text, entity=entity, project=project).job)
    except InvalidInputError:
        return


def _references(value: Any) -> Iterator[str]:
    """References anywhere in a JSON value, as texts with W&B's scheme."""
    if isinstance(value, str) and value.startswith(_SCHEME):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    elif isinstance(value, dict):
        if value.get("_type") == _VALUE_TYPE and isinstance(value.get("id"), str):
            yield f"{_SCHEME}_id/{value['id']}"
        yield from _references(list(value.values()))
