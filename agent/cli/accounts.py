"""`launch login`, `open`, `key`, `user`, `entity`: credentials, users and teams."""

import asyncio
import os
import sys
from typing import Any, Final

import click

from agent.cli.options import Json, Target, json_option, on_server
from agent.cli.output import Columns, format_age, print_json, print_list
from agent.model.errors import InvalidInputError

_KEY: Final = "{ id kind name hint user entity queues createdAt revokedAt }"
_KEY_COLUMNS: Final[Columns] = {
    "ID": lambda each: each["id"],
    "NAME": lambda each: each["name"],
    "KIND": lambda each: each["kind"],
    "ENDS IN": lambda each: each["hint"],
    "QUEUES": lambda each: "all" if each["queues"] is None else ", ".join(each["queues"]),
    "CREATED": lambda each: format_age(each["createdAt"]),
    "STATE": lambda each: "revoked" if each["revokedAt"] else "valid",
}


@click.command("login")
@click.argument("url")
def login(url: str) -> None:
    """Store the API key for the control plane at URL.

    The key is read from the terminal, or from standard input, and tried before it is stored.
    """
    from pydantic import SecretStr

    from agent.config.local_files import save_key

    key = _read_key(url)
    name = asyncio.run(_try_key(url, key))
    file = save_key(os.environ, url, SecretStr(key))
    print(f"Signed in to {url} as {name}; the key is stored in {file}.")
    print(f"Commands use it when this server is named: export LAUNCH_SERVER={url}")


@click.command("open")
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


async def _try_key(url: str, key: str) -> str:
    from agent.remote.client import ControlPlaneClient, Endpoint
    from agent.remote.user_operations import UserOperations

    async with ControlPlaneClient(Endpoint(url, key)) as client:
        viewer = await UserOperations(client).viewer()
    return str(viewer.get("username") or viewer.get("name"))


@click.group()
def key() -> None:
    """Create, list and revoke API keys."""


@key.command("create")
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
@on_server
@json_option
def create_key(
    target: Target,
    name: str,
    queues: tuple[str, ...],
    for_user: str | None,
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

    if for_agent:
        made = _run(
            target,
            "mutation CreateAgentKey($entity: String, $name: String!, $queues: [String!]) {"
            " createLaunchAgentKey(entityName: $entity, name: $name, queueNames: $queues)"
            f" {{ secret key {_KEY} }} }}",
            {"entity": target.entity, "name": name, "queues": list(queues) or None},
        )
    else:
        made = _run(
            target,
            "mutation CreateKey($name: String!, $user: String) {"
            f" createLaunchKey(name: $name, userName: $user) {{ secret key {_KEY} }} }}",
            {"name": name, "user": for_user},
        )
    url = target.remote().url
    if as_json:
        print_json({"url": url, "key": made["secret"], **made["key"]})
        return
    print(made["secret"])
    click.echo(
        f"It is not shown again. Use it like this:\n  export LAUNCH_SERVER={url} LAUNCH_API_KEY=…",
        err=True,
    )


@key.command("list")
@click.option("--agents", is_flag=True, help="The entity's agent keys instead of yours.")
@on_server
@json_option
def list_keys(target: Target, *, agents: bool, as_json: bool) -> None:
    """List keys; their secrets are not stored."""
    entity = target.call(lambda api: api.acting_entity()) if agents else None
    document = f"query Keys($entity: String) {{ launchKeys(entityName: $entity) {_KEY} }}"
    found = _run(target, document, {"entity": entity})
    print_list(found, _KEY_COLUMNS, "No keys.", as_json=as_json)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@on_server
def revoke_key(target: Target, key_id: str) -> None:
    """Revoke a key."""
    document = "mutation RevokeKey($id: ID!) { revokeLaunchKey(id: $id) }"
    _run(target, document, {"id": key_id}, idempotent=True)
    print(f"Revoked the key {key_id}.")


@click.group()
def user() -> None:
    """Create users (server administrators only)."""


@user.command("create")
@click.argument("name")
@click.option("--email")
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
        " { id name email admin entity createdAt } }",
        {"name": name, "email": email, "admin": admin},
    )
    if as_json:
        print_json(made)
        return
    print(f"Created the user `{made['name']}`; `launch key create --for-user {name}` makes a key.")


@click.group()
def entity() -> None:
    """List entities, create teams, set members."""


@entity.command("list")
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


@entity.command("create")
@click.argument("name")
@on_server
def create_team(target: Target, name: str) -> None:
    """Create a team; you become its administrator."""
    document = "mutation CreateTeam($name: String!) { createLaunchTeam(name: $name) { id } }"
    _run(target, document, {"name": name})
    print(f"Created the team `{name}`.")


@entity.command("members")
@click.argument("name")
@on_server
@json_option
def members(target: Target, name: str, *, as_json: bool) -> None:
    """List an entity's members and their roles."""
    found = _run(
        target,
        "query Members($entity: String!) {"
        " launchMembers(entityName: $entity) { user entity role } }",
        {"entity": name},
    )
    columns: Columns = {
        "USER": lambda each: each["user"],
        "ROLE": lambda each: each["role"].lower(),
    }
    print_list(found, columns, "No members.", as_json=as_json)


@entity.command("member")
@click.argument("name")
@click.argument("user_name", metavar="USER")
@click.argument("role", type=click.Choice(["viewer", "member", "admin", "none"]))
@on_server
def set_member(target: Target, name: str, user_name: str, role: str) -> None:
    """Give USER a role in the entity NAME; `none` removes the membership."""
    _run(
        target,
        "mutation SetMember($entity: String!, $user: String!, $role: LaunchRole) {"
        " setLaunchMember(entityName: $entity, userName: $user, role: $role) }",
        {"entity": name, "user": user_name, "role": None if role == "none" else role.upper()},
        idempotent=True,
    )
    print(f"{user_name}: {role} in `{name}`.")
