"""`/api/admin`: users and teams, made and deleted by programs with an administrator's key."""

from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from agent.control.bodies import read_json
from agent.control.request_data import PLANE, principal_of
from agent.control.store.accounts import EntityRecord, MemberRecord, Role, UserRecord
from agent.model.errors import InvalidInputError
from agent.model.spec import Json

Wanted = TypeVar("Wanted", bound="_Wanted")

USERS: Final = "/api/admin/users"
ENTITIES: Final = "/api/admin/entities"
_LIMIT: Final = 1024 * 1024


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


class _User(_Wanted):
    api_key: SecretStr | None = None
    email: str | None = None
    admin: bool = False


class _Member(_Wanted):
    role: Role = Field(default=Role.MEMBER, strict=False)


class _Team(_Wanted):
    #: A name alone is that of a member without further rights.
    members: tuple[str | _Member, ...] = Field(default=(), strict=False)


def add_routes(app: web.Application) -> None:
    """Making takes a JSON body; deleting takes one with `name`, or the name in the path."""
    app.router.add_post(USERS, _create_user)
    app.router.add_post(ENTITIES, _create_team)
    for path in (USERS, f"{USERS}/{{name}}"):
        app.router.add_delete(path, _delete_user)
    for path in (ENTITIES, f"{ENTITIES}/{{name}}"):
        app.router.add_delete(path, _delete_team)


async def _create_user(request: web.Request) -> web.Response:
    """201 with the user and its key, which is not shown again."""
    wanted = await _read(request, _User)
    accounts = request.app[PLANE].accounts
    user, key = await accounts.provision_user(
        principal_of(request),
        wanted.name,
        api_key=wanted.api_key,
        email=wanted.email,
        admin=wanted.admin,
    )
    return web.json_response({"user": _user(user), "key": key.secret}, status=201)


async def _create_team(request: web.Request) -> web.Response:
    """201 with the team and its members."""
    wanted = await _read(request, _Team)
    named = [_Member(name=one) if isinstance(one, str) else one for one in wanted.members]
    roles = {member.name: member.role for member in named}
    accounts = request.app[PLANE].accounts
    team, members = await accounts.provision_team(principal_of(request), wanted.name, roles)
    return web.json_response({"entity": _team(team, members)}, status=201)


async def _delete_user(request: web.Request) -> web.Response:
    name = await _name(request)
    await request.app[PLANE].accounts.delete_user(principal_of(request), name)
    return web.Response(status=204)


async def _delete_team(request: web.Request) -> web.Response:
    name = await _name(request)
    await request.app[PLANE].accounts.delete_team(principal_of(request), name)
    return web.Response(status=204)


async def _name(request: web.Request) -> str:
    in_path = request.match_info.get("name")
    return in_path or (await _read(request, _Wanted)).name


async def _read(request: web.Request, kind: type[Wanted]) -> Wanted:
    body: Any = await read_json(request, _LIMIT)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        raise InvalidInputError(f"`{where}`: {first['msg']}.") from None


def _user(user: UserRecord) -> Json:
    return {
        "id": user.id,
        "name": user.name,
        "entity": user.entity,
        "email": user.email,
        "admin": user.admin,
    }


def _team(team: EntityRecord, members: tuple[MemberRecord, ...]) -> Json:
    shown = [{"name": one.user, "role": one.role.value} for one in members]
    return {"id": team.id, "name": team.name, "members": shown}
