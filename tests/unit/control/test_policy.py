"""Who may do what: the whole table."""

import pytest

from agent.control.auth.policy import Action, CredentialKind, Policy, Principal
from agent.control.store.accounts import Role
from agent.model.errors import NotFoundError, PermissionDeniedError

READING = {Action.READ, Action.READ_PROJECT}
MEMBER = READING | {Action.SUBMIT, Action.CONTROL_OWN, Action.WRITE_RUNS}


def user(role: Role | None, *, team: bool = False, admin: bool = False) -> Principal:
    return Principal(
        kind=CredentialKind.USER,
        key_id="k",
        name="ann",
        default_entity="ann",
        admin=admin,
        roles={} if role is None else {"e": role},
        teams=frozenset({"e"} if team else ()),
    )


def machine(kind: CredentialKind) -> Principal:
    return Principal(kind=kind, key_id="k", name="robot", default_entity="e")


@pytest.mark.parametrize(
    ("principal", "allowed"),
    [
        (user(None), set()),
        (user(Role.VIEWER), READING),
        (user(Role.MEMBER), MEMBER | {Action.RUN_AGENT}),
        (user(Role.MEMBER, team=True), MEMBER),
        (user(Role.ADMIN), set(Action)),
        (user(Role.ADMIN, team=True), set(Action) - {Action.RUN_AGENT}),
        (user(None, admin=True), set(Action)),
        (machine(CredentialKind.AGENT), READING | {Action.RUN_AGENT}),
        (machine(CredentialKind.RUN), {Action.READ_PROJECT, Action.WRITE_RUNS}),
    ],
)
def test_each_role_may_do_this_and_nothing_else(principal: Principal, allowed: set) -> None:
    assert {action for action in Action if Policy().allows(principal, "e", action)} == allowed


@pytest.mark.parametrize("kind", [CredentialKind.AGENT, CredentialKind.RUN])
def test_machines_know_one_entity_only(kind: CredentialKind) -> None:
    assert not any(Policy().allows(machine(kind), "other", action) for action in Action)


def test_personal_agents_in_teams_are_a_switch() -> None:
    member = user(Role.MEMBER, team=True)
    assert Policy(personal_agents_in_teams=True).allows(member, "e", Action.RUN_AGENT)


def test_what_may_not_be_read_does_not_exist() -> None:
    with pytest.raises(NotFoundError, match="no entity 'e'"):
        Policy().require(user(None), "e", Action.READ)
    Policy().require(user(Role.VIEWER), "e", Action.READ)


@pytest.mark.parametrize(
    ("principal", "action", "hint"),
    [
        (user(Role.VIEWER), Action.SUBMIT, "another role"),
        (user(Role.ADMIN, team=True), Action.RUN_AGENT, "agent key"),
        (machine(CredentialKind.AGENT), Action.SUBMIT, "user's key"),
    ],
)
def test_a_refusal_says_what_to_do(principal: Principal, action: Action, hint: str) -> None:
    with pytest.raises(PermissionDeniedError, match=f"may not {action.value}.*{hint}"):
        Policy().require(principal, "e", action)
