"""Users, teams, members and keys: what administrators do."""

from typing import Any, Final

from ariadne import ObjectType

from agent.control.graphql.context import Args, Context, Info
from agent.control.store.records import (
    EntityRecord,
    KeyRecord,
    MemberRecord,
    NewKey,
    Role,
    UserRecord,
)


async def _entities(context: Context, _args: Args) -> tuple[EntityRecord, ...]:
    return await context.plane.accounts.entities(context.principal)


async def _members(context: Context, args: Args) -> tuple[MemberRecord, ...]:
    return await context.plane.accounts.members(context.principal, args["entity_name"])


async def _keys(context: Context, args: Args) -> tuple[KeyRecord, ...]:
    return await context.plane.accounts.keys(context.principal, args.get("entity_name"))


async def _create_user(context: Context, args: Args) -> UserRecord:
    return await context.plane.accounts.create_user(
        context.principal,
        args["name"],
        email=args.get("email"),
        admin=args.get("admin") or False,
    )


async def _create_team(context: Context, args: Args) -> EntityRecord:
    return await context.plane.accounts.create_team(context.principal, args["name"])


async def _set_member(context: Context, args: Args) -> bool:
    given = args.get("role")
    role = Role(given.lower()) if given else None
    accounts = context.plane.accounts
    await accounts.set_member(context.principal, args["entity_name"], args["user_name"], role)
    return True


async def _create_key(context: Context, args: Args) -> NewKey:
    return await context.plane.accounts.create_key(
        context.principal, args["name"], user=args.get("user_name")
    )


async def _create_agent_key(context: Context, args: Args) -> NewKey:
    queues = args.get("queue_names")
    entity = args.get("entity_name") or context.principal.default_entity
    return await context.plane.accounts.create_agent_key(
        context.principal, entity, args["name"], None if queues is None else tuple(queues)
    )


async def _revoke_key(context: Context, args: Args) -> bool:
    await context.plane.accounts.revoke_key(context.principal, args["id"])
    return True


_NEW_KEY: Final = ObjectType("NewLaunchKey")
_NEW_KEY.set_alias("key", "record")
_MEMBER: Final = ObjectType("LaunchMember")


@_MEMBER.field("role")
def _role(member: MemberRecord, _info: Info) -> str:
    return member.role.value.upper()


QUERIES: Final = {
    "launchEntities": _entities,
    "launchMembers": _members,
    "launchKeys": _keys,
}
MUTATIONS: Final[dict[str, Any]] = {
    "createLaunchUser": _create_user,
    "createLaunchTeam": _create_team,
    "setLaunchMember": _set_member,
    "createLaunchKey": _create_key,
    "createLaunchAgentKey": _create_agent_key,
    "revokeLaunchKey": _revoke_key,
}
TYPES: Final = (_NEW_KEY, _MEMBER)
