"""Who asks, what this server is, and the entities."""

from dataclasses import dataclass
from typing import Any, Final

from ariadne import ObjectType

from agent import __version__
from agent.control.graphql.connections import whole
from agent.control.graphql.context import Args, Context, Info, nested
from agent.control.store.records import EntityRecord, ResourceConfigRecord
from agent.model.errors import NotFoundError
from agent.model.spec import Json

#: Clients compare their own version with these; the oldest is what W&B's page asks for.
_CLIENTS: Final = {"max_cli_version": "999.0.0", "min_cli_version": "0.13.8"}
#: What agents and commands ask for by name; the schema's first lines tell what each is.
_FEATURES: Final = tuple(
    {"name": name, "is_enabled": True}
    for name in (
        "LAUNCH_LEASES", "LAUNCH_COMMANDS", "LAUNCH_CLAIM_RESOURCES", "LAUNCH_CONDITIONS",
        "LAUNCH_CONTENT_BATCHES", "LAUNCH_DRY_RUN",
    )
)  # fmt: skip
#: Switches on that clients save code and the difference to the last commit.
_FLAGS: Final = {"code_saving_enabled": True}


@dataclass(frozen=True, slots=True)
class _Viewer:
    """A person, or an agent or a run in the shape that clients expect of one."""

    id: str
    name: str
    username: str
    email: str | None
    admin: bool
    entity: str
    teams: tuple[EntityRecord, ...]


async def _viewer(context: Context, _args: Args) -> _Viewer:
    """Never null: clients take that for a key that was not accepted."""
    principal = context.principal
    entities = await context.plane.accounts.entities(principal)
    teams = tuple(entity for entity in entities if entity.is_team)
    user = await context.plane.accounts.viewer(principal)
    if user is None:
        name = principal.name
        return _Viewer(principal.key_id, name, name, None, False, principal.default_entity, teams)
    return _Viewer(user.id, user.name, user.name, user.email, user.admin, user.entity, teams)


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
    try:
        return await context.plane.accounts.entity(context.principal, args.get("name"))
    except NotFoundError:
        return None


def template_variables(variables: dict[str, Json]) -> list[Json]:
    """W&B's list form of a template's variables; schemas keep the order of their keys."""
    return [
        {
            "name": name,
            "schema": described.get("schema", {}),
            "description": described.get("description"),
        }
        for name, described in variables.items()
    ]


_USER: Final = ObjectType("User")
_ENTITY: Final = ObjectType("Entity")
_CONFIG: Final = ObjectType("DefaultResourceConfig")


@_USER.field("flags")
def _flags(_user: _Viewer, _info: Info) -> Json:
    return _FLAGS


@_USER.field("teams")
def _teams(user: _Viewer, _info: Info) -> Json:
    return whole(user.teams)


@_USER.field("apiKeys")
async def _api_keys(user: _Viewer, info: Info) -> Json:
    """Names of the caller's keys; a key itself is shown only when it is made."""
    context = nested(info)
    if context.principal.user_id != user.id:
        return whole(())
    return whole(await context.plane.accounts.keys(context.principal))


@_USER.field("organizations")
def _organizations(_user: _Viewer, _info: Info) -> list[Any]:
    return []


@_ENTITY.field("xxhashDigestsEnabled")
def _xxhash(_entity: EntityRecord, _info: Info) -> bool:
    return False


@_ENTITY.field("defaultResourceConfig")
async def _resource_config(
    entity: EntityRecord,
    info: Info,
    *,
    id: str,  # noqa: A002 -- the schema's name
) -> ResourceConfigRecord | None:
    context = nested(info)
    return await context.plane.projects.resource_config(context.principal, entity.name, id)


@_CONFIG.field("templateVariables")
def _config_variables(config: ResourceConfigRecord, _info: Info) -> list[Json]:
    return template_variables(config.template_variables)


QUERIES: Final = {"viewer": _viewer, "serverInfo": _server_info, "entity": _entity}
MUTATIONS: Final[dict[str, Any]] = {}
TYPES: Final = (_USER, _ENTITY, _CONFIG)
