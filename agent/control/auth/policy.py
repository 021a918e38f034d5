"""Who may do what: a pure function of principal, entity and action.

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

    READ = "read"
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


class Kind(StrEnum):
    """The kind of credential."""

    USER = "user"
    #: A service key of an agent, bound to an entity and queues.
    AGENT = "agent"
    #: The token of one attempt.
    RUN = "run"


@dataclass(frozen=True, slots=True)
class RunScope:
    """What a run token is bound to."""

    item_id: str
    attempt: int
    project: str
    run_name: str | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as `Authenticator.authenticate` returns it."""

    kind: Kind
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


#: The control plane as a caller of its own services, for metrics and retention: reads every
#: entity. No key and no cookie authenticates as it.
SYSTEM: Final = Principal(
    kind=Kind.USER, key_id="", name="control plane", default_entity="", admin=True
)

_BY_ROLE: Final[Mapping[Role, frozenset[Action]]] = {
    Role.VIEWER: frozenset({Action.READ}),
    Role.MEMBER: frozenset(
        {Action.READ, Action.SUBMIT, Action.CONTROL_OWN, Action.WRITE_RUNS, Action.RUN_AGENT}
    ),
    Role.ADMIN: frozenset(Action),
}
_BY_KIND: Final[Mapping[Kind, frozenset[Action]]] = {
    Kind.USER: frozenset(Action),
    Kind.AGENT: frozenset({Action.READ, Action.RUN_AGENT}),
    Kind.RUN: frozenset({Action.READ, Action.WRITE_RUNS}),
}


def may_ever(kind: Kind, action: Action) -> bool:
    """Whether a credential of this kind can be allowed to do this in some entity."""
    return action in _BY_KIND[kind]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, with the switches an administrator has."""

    personal_agents_in_teams: bool = False

    def allows(self, principal: Principal, entity: str, action: Action) -> bool:
        """Whether the principal may do this in the entity."""
        if principal.kind is not Kind.USER:
            return entity == principal.default_entity and may_ever(principal.kind, action)
        role = Role.ADMIN if principal.admin else principal.roles.get(entity)
        if role is None or action not in _BY_ROLE[role]:
            return False
        if action is Action.RUN_AGENT and entity in principal.teams:
            return self.personal_agents_in_teams
        return True

    def require(self, principal: Principal, entity: str, action: Action) -> None:
        """Refuse what the principal may not do.

        Raises:
            NotFoundError: the principal may not even read the entity.
            PermissionDeniedError: it may, but not do this.
        """
        if self.allows(principal, entity, action):
            return
        if not self.allows(principal, entity, Action.READ):
            raise no_such_entity(entity)
        if action is Action.RUN_AGENT and entity in principal.teams:
            hint = "In a team, agents run with an agent key; ask an administrator for one."
        elif principal.kind is Kind.USER:
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
