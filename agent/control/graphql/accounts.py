"""The caller, users, entities, members and keys; what this server is."""

from dataclasses import replace
from typing import Final

from ariadne import ObjectType

from agent import __version__
from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    connection,
    constant,
    found_or_none,
    nested,
    page_args,
    single_page,
)
from agent.control.store.accounts import (
    EntityRecord,
    NewKey,
    Role,
    UserRecord,
)
from agent.model.spec import Json

#: Clients compare their own version with these; the oldest is that of W&B's documentation.
_CLIENTS: Final = {"max_cli_version": "999.0.0", "min_cli_version": "0.13.8"}
#: The feature that distinguishes our servers from W&B's; see the top of schema.graphql.
#: The first one is ours; the others switch on what W&B's clients do only with servers that can.
_FEATURES: Final = tuple(
    {"name": name, "is_enabled": True}
    for name in (
        "LAUNCH_LEASES",
        "FILESTREAM_GZIP",
        "STRUCTURED_CONSOLE_LOGS",
        "MARK_RUN_FILES_UPLOADED",
        "UPDATE_RUN_STATE",
        "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    )
)


async def _viewer(context: Context, _args: Args) -> Json:
    """Never null, which clients would take for a refused key; agents' keys look like users."""
    principal = context.principal
    entities = await context.plane.accounts.entities(principal)
    user = await context.plane.accounts.viewer(principal)
    return {
        "id": principal.key_id if user is None else user.id,
        "name": principal.name,
        "username": principal.name,
        "email": None if user is None else user.email,
        "admin": user is not None and user.admin,
        "entity": principal.default_entity if user is None else user.entity,
        "teams": single_page(entities),
    }


async def _server_info(_context: Context, _args: Args) -> Json:
    return {
        "cli_version_info": _CLIENTS,
        "latest_local_version_info": {
            "out_of_date": False,
            "latest_version_string": __version__,
            "version_on_this_instance_string": __version__,
        },
        "features": _FEATURES,
    }


async def _entity(context: Context, args: Args) -> EntityRecord | None:
    look_up = context.plane.accounts.entity(context.principal, args.get("name"))
    return await found_or_none(look_up)


async def _create_user(context: Context, args: Args) -> UserRecord:
    return await context.plane.accounts.create_user(
        context.principal,
        args["name"],
        email=args.get("email"),
        admin=args.get("admin") or False,
    )


async def _set_member(context: Context, args: Args) -> bool:
    given = args.get("role")
    role = Role(given.lower()) if given else None
    accounts = context.plane.accounts
    await accounts.set_member(context.principal, args["entity_name"], args["user_name"], role)
    return True


async def _create_agent_key(context: Context, args: Args) -> NewKey:
    queues = args.get("queue_names")
    entity = args.get("entity_name") or context.principal.default_entity
    return await context.plane.accounts.create_agent_key(
        context.principal,
        entity,
        args["name"],
        None if queues is None else tuple(queues),
        expires_seconds=args.get("expires_seconds"),
    )


async def _disable_user(context: Context, args: Args) -> UserRecord:
    accounts = context.plane.accounts
    change = accounts.disable_user if args["disabled"] else accounts.enable_user
    return await change(context.principal, args["name"])


async def _answer_invitation(context: Context, args: Args) -> bool:
    entity, accept = args["entity_name"], args["accept"]
    await context.plane.accounts.answer_invitation(context.principal, entity, accept=accept)
    return True


async def _audit(context: Context, args: Args) -> Json:
    entity = args.get("entity_name")
    return connection(await context.plane.audit.list(context.principal, entity, **page_args(args)))


async def _revoke_key(context: Context, args: Args) -> bool:
    await context.plane.accounts.revoke_key(context.principal, args["id"])
    return True


_USER: Final = ObjectType("User")
#: Lets clients save code and the diff to the last commit.
_USER.set_field("flags", constant({"code_saving_enabled": True}))
_USER.set_field("organizations", constant(()))
_ENTITY: Final = ObjectType("Entity")
#: What `Api.team` of W&B's clients selects; entities here have no such properties.
for _name, _value in {
    "xxhashDigestsEnabled": False,
    "available": False,
    "readOnly": False,
    "readOnlyAdmin": False,
    "privateOnly": True,
    "storageBytes": 0,
    "codeSavingEnabled": True,
    "defaultAccess": "PRIVATE",
    "isPaid": True,
}.items():
    _ENTITY.set_field(_name, constant(_value))
_NEW_KEY: Final = ObjectType("NewLaunchKey")
_NEW_KEY.set_alias("key", "record")
_MEMBER: Final = ObjectType("LaunchMember")
_MEMBER.set_field("role", lambda member, _info: member.role.value.upper())
_INVITATION: Final = ObjectType("LaunchInvitation")
_INVITATION.set_field("role", lambda member, _info: member.role.value.upper())


@_USER.field("apiKeys")
async def _api_keys(user: Json, info: Info) -> Json:
    """Names of the caller's keys; a key itself is shown only when it is made."""
    context = nested(info)
    if context.principal.user_id != user["id"]:
        return single_page(())
    return single_page(await context.plane.accounts.keys(context.principal))


@_ENTITY.field("entityType")
def _entity_type(entity: EntityRecord, _info: Info) -> str:
    return "team" if entity.is_team else "user"


@_ENTITY.field("members")
async def _members(entity: EntityRecord, info: Info) -> list[Json]:
    context = nested(info)
    members = await context.plane.accounts.members(context.principal, entity.name)
    return [
        {
            "username": one.user,
            "name": one.user,
            "admin": one.role is Role.ADMIN,
            "pending": not one.accepted,
            "account_type": one.role.value.upper(),
        }
        for one in members
    ]


async def _create_team(context: Context, args: Args) -> EntityRecord:
    caller, name = context.principal, args["name"]
    made = await context.plane.accounts.create_team(caller, name)
    # Its administrator from now on: this answer shows the team already.
    context.principal = replace(
        caller, roles={**caller.roles, name: Role.ADMIN}, teams=caller.teams | {name}
    )
    return made


QUERIES: Final[RootResolvers] = {
    "viewer": _viewer,
    "serverInfo": _server_info,
    "entity": _entity,
    "launchEntities": lambda context, _: context.plane.accounts.entities(context.principal),
    "launchMembers": lambda context, args: context.plane.accounts.members(
        context.principal, args["entity_name"]
    ),
    "launchInvitations": lambda context, _: context.plane.accounts.invitations(context.principal),
    "launchKeys": lambda context, args: context.plane.accounts.keys(
        context.principal,
        args.get("entity_name"),
        user=args.get("user_name"),
        everybody=bool(args.get("all")),
    ),
    "launchUsers": lambda context, _: context.plane.accounts.users(context.principal),
    "launchAudit": _audit,
    "launchAuditProblem": lambda context, _: context.plane.audit.first_changed(context.principal),
}
MUTATIONS: Final[RootResolvers] = {
    "createLaunchUser": _create_user,
    "createLaunchTeam": _create_team,
    "setLaunchMember": _set_member,
    "createLaunchKey": lambda context, args: context.plane.accounts.create_key(
        context.principal,
        args["name"],
        user=args.get("user_name"),
        expires_seconds=args.get("expires_seconds"),
    ),
    "disableLaunchUser": _disable_user,
    "answerLaunchInvitation": _answer_invitation,
    "createLaunchAgentKey": _create_agent_key,
    "revokeLaunchKey": _revoke_key,
}
TYPES: Final = (_USER, _ENTITY, _NEW_KEY, _MEMBER, _INVITATION)
