"""`launch key`, `launch user`, `launch entity`: what a team's administrators do."""

from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.output import ago, print_json, print_table
from agent.model.errors import InvalidInputError

if TYPE_CHECKING:
    from agent.remote.console import Console

Json = dict[str, Any]

_KEY: Final = "{ id kind name hint user entity queues createdAt revokedAt }"


@click.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command("create")
@click.argument("name", default="cli")
@click.option("--for-agent", is_flag=True, help="A key that can do nothing but run agents.")
@click.option("-q", "--queue", "queues", multiple=True, help="With --for-agent: only this queue.")
@click.option("--for-user", help="For somebody else; administrators of the server only.")
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
    """Make a key and show it, once."""
    if queues and not for_agent:
        raise InvalidInputError("--queue belongs to --for-agent.")
    if for_user and for_agent:
        message = "--for-user and --for-agent exclude each other: an agent's key is nobody's."
        raise InvalidInputError(message)

    async def work(console: "Console") -> Json:
        if for_agent:
            return await _create_agent_key(console, name, queues)
        data = await console.run(
            "mutation CreateKey($name: String!, $user: String) {"
            f" createLaunchKey(name: $name, userName: $user) {{ secret key {_KEY} }} }}",
            {"name": name, "user": for_user},
        )
        made: Json = data["createLaunchKey"]
        return made

    made = target.call(work)
    url = target.remote().url
    if as_json:
        print_json({"url": url, "key": made["secret"], **made["key"]})
        return
    print(made["secret"])
    click.echo(
        f"This is shown once. Use it so:\n  export LAUNCH_SERVER={url} LAUNCH_API_KEY=…", err=True
    )


async def _create_agent_key(console: "Console", name: str, queues: tuple[str, ...]) -> Json:
    data = await console.run(
        "mutation CreateAgentKey($entity: String, $name: String!, $queues: [String!]) {"
        " createLaunchAgentKey(entityName: $entity, name: $name, queueNames: $queues)"
        f" {{ secret key {_KEY} }} }}",
        {"entity": console.entity, "name": name, "queues": list(queues) or None},
    )
    made: Json = data["createLaunchAgentKey"]
    return made


@key.command("list")
@click.option("--agents", is_flag=True, help="The agent keys of the entity instead of yours.")
@on_server
@json_option
def list_keys(target: Target, *, agents: bool, as_json: bool) -> None:
    """List keys; the keys themselves are not stored anywhere."""

    async def work(console: "Console") -> list[Json]:
        entity = await console.acting_entity() if agents else None
        data = await console.run(
            f"query Keys($entity: String) {{ launchKeys(entityName: $entity) {_KEY} }}",
            {"entity": entity},
        )
        keys: list[Json] = data["launchKeys"]
        return keys

    found = target.call(work)
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "NAME", "KIND", "ENDS IN", "QUEUES", "CREATED", "STATE"),
        [_key_row(each) for each in found],
        "No keys.",
    )


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@on_server
def revoke_key(target: Target, key_id: str) -> None:
    """End a key's validity."""

    async def work(console: "Console") -> None:
        await console.run(
            "mutation RevokeKey($id: ID!) { revokeLaunchKey(id: $id) }",
            {"id": key_id},
            idempotent=True,
        )

    target.call(work)
    print(f"The key {key_id} is not valid any more.")


@click.group()
def user() -> None:
    """Make users (administrators of the server)."""


@user.command("create")
@click.argument("name")
@click.option("--email")
@click.option("--admin", is_flag=True, help="An administrator of the server.")
@on_server
@json_option
def create_user(
    target: Target, name: str, email: str | None, *, admin: bool, as_json: bool
) -> None:
    """Make a user, and an entity of the same name."""

    async def work(console: "Console") -> Json:
        data = await console.run(
            "mutation CreateUser($name: String!, $email: String, $admin: Boolean) {"
            " createLaunchUser(name: $name, email: $email, admin: $admin)"
            " { id name email admin entity createdAt } }",
            {"name": name, "email": email, "admin": admin},
        )
        made: Json = data["createLaunchUser"]
        return made

    made = target.call(work)
    if as_json:
        print_json(made)
        return
    print(f"Made the user `{made['name']}`; `launch key create --for-user {name}` makes a key.")


@click.group()
def entity() -> None:
    """List entities, make teams, set members."""


@entity.command("list")
@on_server
@json_option
def list_entities(target: Target, *, as_json: bool) -> None:
    """List the entities that you may see."""

    async def work(console: "Console") -> list[Json]:
        data = await console.run("query Entities { launchEntities { id name isTeam } }")
        entities: list[Json] = data["launchEntities"]
        return entities

    found = target.call(work)
    if as_json:
        print_json(found)
        return
    rows = [(each["name"], "team" if each["isTeam"] else "personal") for each in found]
    print_table(("NAME", "KIND"), rows, "No entities.")


@entity.command("create")
@click.argument("name")
@on_server
def create_team(target: Target, name: str) -> None:
    """Make a team; you become its administrator."""

    async def work(console: "Console") -> None:
        document = "mutation CreateTeam($name: String!) { createLaunchTeam(name: $name) { id } }"
        await console.run(document, {"name": name})

    target.call(work)
    print(f"Made the team `{name}`.")


@entity.command("members")
@click.argument("name")
@on_server
@json_option
def members(target: Target, name: str, *, as_json: bool) -> None:
    """List an entity's members and their roles."""

    async def work(console: "Console") -> list[Json]:
        data = await console.run(
            "query Members($entity: String!) {"
            " launchMembers(entityName: $entity) { user entity role } }",
            {"entity": name},
        )
        found: list[Json] = data["launchMembers"]
        return found

    found = target.call(work)
    if as_json:
        print_json(found)
        return
    print_table(
        ("USER", "ROLE"), [(each["user"], each["role"].lower()) for each in found], "No members."
    )


@entity.command("member")
@click.argument("name")
@click.argument("user_name", metavar="USER")
@click.argument("role", type=click.Choice(["viewer", "member", "admin", "none"]))
@on_server
def set_member(target: Target, name: str, user_name: str, role: str) -> None:
    """Give USER a role in the entity NAME; `none` takes membership away."""

    async def work(console: "Console") -> None:
        await console.run(
            "mutation SetMember($entity: String!, $user: String!, $role: LaunchRole) {"
            " setLaunchMember(entityName: $entity, userName: $user, role: $role) }",
            {
                "entity": name,
                "user": user_name,
                "role": None if role == "none" else role.upper(),
            },
            idempotent=True,
        )

    target.call(work)
    print(f"{user_name}: {role} in `{name}`.")


def _key_row(each: Json) -> tuple[object, ...]:
    return (
        each["id"],
        each["name"],
        each["kind"],
        each["hint"],
        "all" if each["queues"] is None else ", ".join(each["queues"]),
        ago(each["createdAt"]),
        "revoked" if each["revokedAt"] else "valid",
    )
