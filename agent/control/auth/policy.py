"""Who may do what: a pure function of principal, entity and action.

Asked by `graphql/field_policies.py` (the `@policy` of a field), by `principals.py` and by the
services.

Deny by default. An entity that a principal may not read gives the same `NotFoundError` as one
that does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.control.store.accounts import Role
from agent.model.errors import NotFoundError, PermissionDeniedError


class Action(StrEnum):
    """Every action that needs permission, worded for error messages."""

    #: Queues, items and their logs, agents, members.
    READ = "read"
    #: Runs and artifacts; who may `READ` an entity may do so in all of its projects.
    READ_PROJECT = "read runs and artifacts"
    SUBMIT = "submit items"
    #: Stop, retry, move or prioritise an item of one's own.
    CONTROL_OWN = "change own items"
    CONTROL_ANY = "change items of others"
    MANAGE_QUEUES = "manage queues"
    MANAGE_AGENTS = "stop agents"
    MANAGE_MEMBERS = "manage members and keys"
    #: Register, claim, permit, renew, finish.
    RUN_AGENT = "run agents"
    WRITE_RUNS = "write runs"


class CredentialKind(StrEnum):
    """The kind of credential."""

    USER = "user"
    #: An agent key, bound to an entity and queues.
    AGENT = "agent"
    #: The token of one attempt.
    RUN = "run"


@dataclass(frozen=True, slots=True)
class RunScope:
    """What a run token is bound to."""

    item_id: str
    attempt: int
    project: str
    run_name: str
    #: `entity/project/name` of the artifacts that the launch spec names as inputs, as far as the
    #: item's author may read them; entities other than the run's own are possible.
    input_paths: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as `Authenticator.authenticate` returns it."""

    kind: CredentialKind
    #: Id of the key; for run tokens the item's id.
    key_id: str
    #: For messages: user name, agent key's name, or `run <id>`.
    name: str
    #: Entity meant when none is named.
    default_entity: str
    user_id: str | None = None
    #: Administrator of this server: may do everything everywhere.
    admin: bool = False
    #: Role by entity name; agents and runs have none.
    roles: Mapping[str, Role] = field(default_factory=dict)
    #: Teams among the entities; `Policy.personal_agents_in_teams` applies there.
    teams: frozenset[str] = frozenset()
    #: Queue names an agent key may serve; `None` means all of its entity.
    queues: tuple[str, ...] | None = None
    run: RunScope | None = None
    #: When its browser session began, in seconds since 1970; `None` for a credential in a header.
    signed_in_at: float | None = None
    #: Of the client, for the audit log.
    address: str = ""
    #: Of the request, when its client may send it again after a lost answer.
    idempotency_key: str | None = None


#: The control plane as a caller of its own services, for metrics and retention: reads every
#: entity. No key and no cookie authenticates as it.
SYSTEM: Final = Principal(
    kind=CredentialKind.USER, key_id="", name="control plane", default_entity="", admin=True
)

_READING: Final = frozenset({Action.READ, Action.READ_PROJECT})
_BY_ROLE: Final[Mapping[Role, frozenset[Action]]] = {
    Role.VIEWER: _READING,
    Role.MEMBER: _READING
    | {Action.SUBMIT, Action.CONTROL_OWN, Action.WRITE_RUNS, Action.RUN_AGENT},
    Role.ADMIN: frozenset(Action),
}
_BY_KIND: Final[Mapping[CredentialKind, frozenset[Action]]] = {
    CredentialKind.USER: frozenset(Action),
    CredentialKind.AGENT: _READING | {Action.RUN_AGENT},
    CredentialKind.RUN: frozenset({Action.READ_PROJECT, Action.WRITE_RUNS}),
}


def may_ever(kind: CredentialKind, action: Action) -> bool:
    """Whether a credential of this kind can be allowed to do this in some entity."""
    return action in _BY_KIND[kind]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, with the switches an administrator has."""

    personal_agents_in_teams: bool = False

    def allows(self, principal: Principal, entity: str, action: Action) -> bool:
        """Whether the principal may do this in the entity."""
        if principal.kind is not CredentialKind.USER:
            return entity == principal.default_entity and may_ever(principal.kind, action)
        role = Role.ADMIN if principal.admin else principal.roles.get(entity)
        if role is None or action not in _BY_ROLE[role]:
            return False
        if action is Action.RUN_AGENT and entity in principal.teams:
            return self.personal_agents_in_teams
        return True

    def reads_project(self, principal: Principal, entity: str, project: str) -> bool:
        """Whether the principal may read runs and artifacts of this project.

        A run token may only in the project of its run.
        """
        in_scope = principal.run is None or principal.run.project == project
        return in_scope and self.allows(principal, entity, Action.READ_PROJECT)

    def reads_artifact(
        self, principal: Principal, entity: str, project: str, collection: str
    ) -> bool:
        """Whether the principal may read versions of a collection: in a project, or as an input."""
        if self.reads_project(principal, entity, project):
            return True
        return principal.run is not None and f"{entity}/{project}/{collection}" in (
            principal.run.input_paths
        )

    def sees_entity_or_project(
        self, principal: Principal, entity: str, project: str | None = None
    ) -> bool:
        """Whether an entity or a project as such may be shown, whatever is in it.

        A run token sees those of its inputs, too: clients read an input through them.
        """
        if project is None and self.allows(principal, entity, Action.READ_PROJECT):
            return True
        if project is not None and self.reads_project(principal, entity, project):
            return True
        below = f"{entity}/" if project is None else f"{entity}/{project}/"
        return principal.run is not None and any(
            each.startswith(below) for each in principal.run.input_paths
        )

    def readable_entities(self, principal: Principal) -> frozenset[str] | None:
        """The entities whose queues and items the principal may read; `None` means all."""
        if principal.admin:
            return None
        named = {*principal.roles, principal.default_entity}
        return frozenset(each for each in named if self.allows(principal, each, Action.READ))

    def require(self, principal: Principal, entity: str, action: Action) -> None:
        """Refuse what the principal may not do.

        Raises:
            NotFoundError: the principal may not even read the entity.
            PermissionDeniedError: it may, but not do this.
        """
        if self.allows(principal, entity, action):
            return
        if not self.allows(principal, entity, Action.READ_PROJECT):
            raise no_such_entity(entity)
        if action is Action.RUN_AGENT and entity in principal.teams:
            hint = "In a team, agents run with an agent key; ask an administrator for one."
        elif principal.kind is CredentialKind.USER:
            hint = f"Ask an administrator of '{entity}' for another role."
        else:
            hint = "Use a user's key."
        message = f"{principal.name} may not {action.value} in '{entity}'."
        raise PermissionDeniedError(message, hint=hint)


def no_such_entity(name: str) -> NotFoundError:
    """The same error for an entity that is absent and one that is hidden."""
    return NotFoundError(
        f"There is no entity '{name}', or this key may not read it.",
        hint="Check the spelling; `launch entity list` shows yours.",
    )
