"""`launch login`, `open`, `key`, `user`, `entity`, `audit`: credentials, users and teams."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

import click

from agent.cli.options import (
    Json,
    Target,
    example,
    json_option,
    on_server,
    policy_of_commands,
    retry_option,
)
from agent.cli.output import Columns, format_age, print_json, print_list
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.units import parse_duration

_KEY: Final = "{ id kind name hint user entity queues createdAt revokedAt expiresAt }"


def _key_state(key: Json) -> str:
    if key["revokedAt"]:
        return "revoked"
    if not key["expiresAt"]:
        return "valid"
    until = datetime.fromisoformat(key["expiresAt"])
    over = until <= datetime.now(UTC)
    return f"{'expired' if over else 'valid until'} {until:%Y-%m-%d %H:%M} UTC"


_KEY_COLUMNS: Final[Columns] = {
    "ID": lambda each: each["id"],
    "NAME": lambda each: each["name"],
    "KIND": lambda each: each["kind"],
    "ENDS IN": lambda each: each["hint"],
    "QUEUES": lambda each: "all" if each["queues"] is None else ", ".join(each["queues"]),
    "CREATED": lambda each: format_age(each["createdAt"]),
    "STATE": _key_state,
}
_USER: Final = "{ id name email admin entity createdAt disabledAt }"
_AUDIT: Final = "{ seq at actor keyId action entity details address result }"


@click.command("login", epilog=example("launch login https://launch.example < key.txt"))
@click.argument("url")
@retry_option
def login(url: str, retry_for: float) -> None:
    """Store the API key for the control plane at URL.

    The key is read from the terminal, or from standard input, and tried before it is stored.
    """
    from pydantic import SecretStr

    from agent.config.local_files import save_key

    key = _read_key(url)
    name = asyncio.run(_try_key(url, key, retry_for))
    file = save_key(os.environ, url, SecretStr(key))
    print(f"Signed in to {url} as {name}; the key is stored in {file}.")
    print(f"Commands use it when this server is named: export LAUNCH_SERVER={url}")


@click.command("open", epilog=example("launch open"))
@on_server
@json_option
def open_page(target: Target, *, as_json: bool) -> None:
    """Print a link that signs a browser in, once, within an hour."""
    link = target.call(lambda api: api.sign_in_link())
    if as_json:
        print_json({"url": link})
    else:
        print(link)


def _run(
    target: Target, document: str, variables: Json | None = None, *, idempotent: bool | None = None
) -> Any:
    """Run an operation with one field; returns the field's value."""
    data = target.call(lambda api: api.run(document, variables, idempotent=idempotent))
    (value,) = data.values()
    return value


def _read_key(url: str) -> str:
    if sys.stdin.isatty():
        key = str(click.prompt(f"API key for {url}", hide_input=True))
    else:
        key = sys.stdin.readline()
    if not key.strip():
        message = "No API key was given."
        raise InvalidInputError(message, hint="Paste it, or pipe it in: launch login URL < file.")
    return key.strip()


async def _try_key(url: str, key: str, retry_for: float) -> str:
    from agent.remote.client import ControlPlaneClient, Endpoint
    from agent.remote.user_operations import UserOperations

    policy = policy_of_commands(retry_for)
    async with ControlPlaneClient(Endpoint(url, key), retry_policy=policy) as client:
        viewer = await UserOperations(client).viewer()
    return str(viewer.get("username") or viewer.get("name"))


@click.group()
def key() -> None:
    """Create, list and revoke API keys."""


@key.command(
    "create",
    epilog=example(
        "launch key create laptop --expires 90d", "launch key create --for-agent -e team -q gpu"
    ),
)
@click.argument("name", default="cli")
@click.option("--for-agent", is_flag=True, help="A key that can only run agents.")
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    help="With --for-agent: its queues.",
)
@click.option("--for-user", help="For another user; server administrators only.")
@click.option("--expires", metavar="TIME", help="End of its validity, for example 90d.")
@on_server
@json_option
def create_key(
    target: Target,
    name: str,
    queues: tuple[str, ...],
    for_user: str | None,
    expires: str | None,
    *,
    for_agent: bool,
    as_json: bool,
) -> None:
    """Create a key and print it; it cannot be shown again."""
    if queues and not for_agent:
        raise InvalidInputError("--queue belongs to --for-agent.")
    if for_user and for_agent:
        message = "--for-user and --for-agent exclude each other: an agent key belongs to no user."
        raise InvalidInputError(message)

    common = {"name": name, "expires": parse_duration(expires) if expires else None}
    if for_agent:
        made = _run(
            target,
            "mutation CreateAgentKey($entity: String, $name: String!, $queues: [String!],"
            " $expires: Float) { createLaunchAgentKey(entityName: $entity, name: $name,"
            f" queueNames: $queues, expiresSeconds: $expires) {{ secret key {_KEY} }} }}",
            {"entity": target.entity, "queues": list(queues) or None, **common},
        )
    else:
        made = _run(
            target,
            "mutation CreateKey($name: String!, $user: String, $expires: Float) {"
            " createLaunchKey(name: $name, userName: $user, expiresSeconds: $expires)"
            f" {{ secret key {_KEY} }} }}",
            {"user": for_user, **common},
        )
    url = target.remote().url
    if as_json:
        print_json({"url": url, "key": made["secret"], **made["key"]})
        return
    print(made["secret"])
    click.echo(
        f"It is not shown again. Use it like this:\n  export LAUNCH_SERVER={url} LAUNCH_API_KEY=…\n"
        f"or, for W&B's library and commands:\n  export WANDB_BASE_URL={url} WANDB_API_KEY=…",
        err=True,
    )


@key.command("list", epilog=example("launch key list"))
@click.option("--agents", is_flag=True, help="The entity's agent keys instead of yours.")
@click.option("--user", "of_user", help="Another user's keys; server administrators only.")
@click.option("--all", "all_keys", is_flag=True, help="All keys; server administrators only.")
@on_server
@json_option
def list_keys(
    target: Target, of_user: str | None, *, agents: bool, all_keys: bool, as_json: bool
) -> None:
    """List keys; their secrets are not stored."""
    if agents + all_keys + (of_user is not None) > 1:
        raise InvalidInputError("--agents, --user and --all exclude each other.")
    entity = target.call(lambda api: api.acting_entity()) if agents else None
    found = _run(
        target,
        "query Keys($entity: String, $user: String, $all: Boolean) {"
        f" launchKeys(entityName: $entity, userName: $user, all: $all) {_KEY} }}",
        {"entity": entity, "user": of_user, "all": all_keys},
    )
    owner: Columns = {"OWNER": lambda each: each["user"] or each["entity"]} if all_keys else {}
    print_list(found, {**_KEY_COLUMNS, **owner}, "No keys.", as_json=as_json)


@key.command("revoke", epilog=example("launch key revoke k3v9xw2m7qpa"))
@click.argument("key_id", metavar="ID")
@on_server
def revoke_key(target: Target, key_id: str) -> None:
    """Revoke a key."""
    document = "mutation RevokeKey($id: ID!) { revokeLaunchKey(id: $id) }"
    _run(target, document, {"id": key_id}, idempotent=True)
    print(f"Revoked the key {key_id}.")


@click.group()
def user() -> None:
    """Create, list, disable and enable users (server administrators only)."""


@user.command("create", epilog=example("launch user create ann"))
@click.argument("name")
@click.option("--email", help="Shown to W&B's clients.")
@click.option("--admin", is_flag=True, help="Make the user a server administrator.")
@on_server
@json_option
def create_user(
    target: Target, name: str, email: str | None, *, admin: bool, as_json: bool
) -> None:
    """Create a user, and an entity of the same name."""
    made = _run(
        target,
        "mutation CreateUser($name: String!, $email: String, $admin: Boolean) {"
        " createLaunchUser(name: $name, email: $email, admin: $admin)"
        f" {_USER} }}",
        {"name": name, "email": email, "admin": admin},
        idempotent=True,
    )
    if as_json:
        print_json(made)
        return
    print(f"Created the user `{made['name']}`; `launch key create --for-user {name}` makes a key.")


@user.command("list", epilog=example("launch user list"))
@on_server
@json_option
def list_users(target: Target, *, as_json: bool) -> None:
    """List all users."""
    columns: Columns = {
        "NAME": lambda each: each["name"],
        "EMAIL": lambda each: each["email"] or "",
        "ROLE": lambda each: "administrator" if each["admin"] else "",
        "CREATED": lambda each: format_age(each["createdAt"]),
        "STATE": lambda each: "disabled" if each["disabledAt"] else "",
    }
    found = _run(target, f"query Users {{ launchUsers {_USER} }}")
    print_list(found, columns, "No users.", as_json=as_json)


@user.command("disable", epilog=example("launch user disable ann"))
@click.argument("name")
@on_server
def disable_user(target: Target, name: str) -> None:
    """End all keys and sessions of a user at once; nothing is deleted."""
    _set_disabled(target, name, disabled=True)
    print(f"Disabled the user `{name}`; `launch user enable {name}` undoes it.")


@user.command("enable", epilog=example("launch user enable ann"))
@click.argument("name")
@on_server
def enable_user(target: Target, name: str) -> None:
    """Let a disabled user in again."""
    _set_disabled(target, name, disabled=False)
    print(f"Enabled the user `{name}`.")


def _set_disabled(target: Target, name: str, *, disabled: bool) -> None:
    document = (
        "mutation DisableUser($name: String!, $disabled: Boolean!) {"
        " disableLaunchUser(name: $name, disabled: $disabled) { id } }"
    )
    _run(target, document, {"name": name, "disabled": disabled}, idempotent=True)


@click.command("audit", epilog=example("launch audit -n 20"))
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1, 5000),
    default=50,
    show_default=True,
    help="Entries, the newest.",
)
@click.option("--verify", is_flag=True, help="Check instead that no entry was changed or removed.")
@on_server
@json_option
def audit(target: Target, number: int, *, verify: bool, as_json: bool) -> None:
    """Show who changed keys, users, members and queues, newest first.

    With --entity what concerns an entity that you administer; else of the whole server, for its
    administrators.
    """
    if verify:
        problem = _run(target, "query AuditProblem { launchAuditProblem }")
        if problem is not None:
            message = f"Entry {problem} of the audit log is not as it was written."
            raise ConflictError(message, hint="Compare it with a backup of the database.")
        print("All entries of the audit log are as they were written.")
        return
    page = _run(
        target,
        "query Audit($entity: String, $first: Int) { launchAudit(entityName: $entity,"
        f" first: $first) {{ edges {{ node {_AUDIT} }} }} }}",
        {"entity": target.entity, "first": number},
    )
    columns: Columns = {
        "AT": lambda each: f"{datetime.fromisoformat(each['at']):%Y-%m-%d %H:%M:%S}",
        "ACTOR": lambda each: each["actor"] or "?",
        "ACTION": lambda each: each["action"],
        "ENTITY": lambda each: each["entity"] or "",
        "DETAILS": lambda each: " ".join(f"{k}={_plain(v)}" for k, v in each["details"].items()),
        "FROM": lambda each: each["address"],
        "RESULT": lambda each: each["result"],
    }
    found = [edge["node"] for edge in page["edges"]]
    print_list(found, columns, "No entries.", as_json=as_json)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@click.group()
def entity() -> None:
    """List entities, create teams, set members, accept invitations."""


@entity.command("list", epilog=example("launch entity list"))
@on_server
@json_option
def list_entities(target: Target, *, as_json: bool) -> None:
    """List the entities that you can read."""
    found = _run(target, "query Entities { launchEntities { id name isTeam } }")
    columns: Columns = {
        "NAME": lambda each: each["name"],
        "KIND": lambda each: "team" if each["isTeam"] else "personal",
    }
    print_list(found, columns, "No entities.", as_json=as_json)


@entity.command("create", epilog=example("launch entity create team"))
@click.argument("name")
@on_server
def create_team(target: Target, name: str) -> None:
    """Create a team; you become its administrator."""
    document = "mutation CreateTeam($name: String!) { createLaunchTeam(name: $name) { id } }"
    _run(target, document, {"name": name}, idempotent=True)
    print(f"Created the team `{name}`.")


@entity.command("members", epilog=example("launch entity members team"))
@click.argument("name")
@on_server
@json_option
def members(target: Target, name: str, *, as_json: bool) -> None:
    """List an entity's members and their roles."""
    found = _run(
        target,
        "query Members($entity: String!) {"
        " launchMembers(entityName: $entity) { user entity role accepted } }",
        {"entity": name},
    )
    columns: Columns = {
        "USER": lambda each: each["user"],
        "ROLE": lambda each: each["role"].lower(),
        "STATE": lambda each: "" if each["accepted"] else "invited",
    }
    print_list(found, columns, "No members.", as_json=as_json)


@entity.command("invitations", epilog=example("launch entity invitations"))
@on_server
@json_option
def invitations(target: Target, *, as_json: bool) -> None:
    """List the teams that you are invited to."""
    found = _run(target, "query Invitations { launchInvitations { entity role } }")
    columns: Columns = {
        "TEAM": lambda each: each["entity"],
        "ROLE": lambda each: each["role"].lower(),
    }
    print_list(found, columns, "No invitations.", as_json=as_json)


@entity.command("join", epilog=example("launch entity join team"))
@click.argument("name")
@on_server
def join(target: Target, name: str) -> None:
    """Accept an invitation to a team."""
    _answer(target, name, accept=True)
    print(f"You are a member of `{name}`.")


@entity.command("leave", epilog=example("launch entity leave team"))
@click.argument("name")
@on_server
def leave(target: Target, name: str) -> None:
    """Leave a team, or decline an invitation to it."""
    _answer(target, name, accept=False)
    print(f"You are not a member of `{name}`.")


def _answer(target: Target, name: str, *, accept: bool) -> None:
    document = (
        "mutation Answer($entity: String!, $accept: Boolean!) {"
        " answerLaunchInvitation(entityName: $entity, accept: $accept) }"
    )
    _run(target, document, {"entity": name, "accept": accept}, idempotent=True)


@entity.command("member", epilog=example("launch entity member team ann member"))
@click.argument("name")
@click.argument("user_name", metavar="USER")
@click.argument("role", type=click.Choice(["viewer", "member", "admin", "none"]))
@on_server
def set_member(target: Target, name: str, user_name: str, role: str) -> None:
    """Give USER a role in the entity NAME; `none` removes the membership.

    Who is no member yet is invited, and accepts with `launch entity join NAME`; a server
    administrator makes members at once.
    """
    _run(
        target,
        "mutation SetMember($entity: String!, $user: String!, $role: LaunchRole) {"
        " setLaunchMember(entityName: $entity, userName: $user, role: $role) }",
        {"entity": name, "user": user_name, "role": None if role == "none" else role.upper()},
        idempotent=True,
    )
    print(f"{user_name}: {role} in `{name}`.")
