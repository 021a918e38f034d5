"""A control plane on loopback and people who call it over HTTP."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.server import ControlPlane
from agent.control.store.accounts import Role

SPEC = {"docker": {"docker_image": "repo/name:tag"}, "project": "demo", "overrides": {"args": []}}


@dataclass(frozen=True, slots=True)
class Caller:
    """One key, or none."""

    wire: "Wire"
    key: str | None

    @property
    def headers(self) -> dict[str, str]:
        if self.key is None:
            return {}
        text = base64.b64encode(f"api:{self.key}".encode()).decode()
        return {"Authorization": f"Basic {text}"}

    def request(self, method: str, path: str, **options: Any):
        headers = self.headers | options.pop("headers", {})
        return self.wire.http.request(
            method, self.wire.server.url + path, headers=headers, allow_redirects=False, **options
        )

    async def status(self, method: str, path: str, **options: Any) -> int:
        async with self.request(method, path, **options) as answer:
            return answer.status

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The whole answer to a document, as clients send it."""
        body = {"query": query, "variables": variables, "operationName": ""}
        async with self.request("POST", "/graphql", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def data(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = await self.ask(query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def code(self, query: str, **variables: Any) -> str | None:
        """Code of the first error; `None` when there is none."""
        answer = await self.ask(query, **variables)
        return answer["errors"][0]["extensions"]["code"] if "errors" in answer else None


@dataclass(slots=True)
class Wire:
    """A server and a client session."""

    server: ControlPlane
    http: aiohttp.ClientSession
    admin: Principal
    #: The administrator of the server, its entity is `ann`.
    ann: Caller = None  # type: ignore[assignment]

    @property
    def nobody(self) -> Caller:
        return Caller(self, None)

    def caller(self, key: str) -> Caller:
        return Caller(self, key)

    async def user(self, name: str) -> Caller:
        """A new user with a key."""
        accounts = self.server.services.accounts
        await accounts.create_user(self.admin, name)
        return self.caller((await accounts.create_key(self.admin, "k", user=name)).secret)

    async def team(self, name: str, **roles: Role) -> None:
        """A team with members of these roles."""
        accounts = self.server.services.accounts
        await accounts.create_team(self.admin, name)
        for user, role in roles.items():
            await accounts.set_member(self.admin, name, user, role)

    async def agent_key(self, entity: str, *queues: str) -> Caller:
        accounts = self.server.services.accounts
        made = await accounts.create_agent_key(self.admin, entity, "robot", queues or None)
        return self.caller(made.secret)


@asynccontextmanager
async def open_wire(folder: Path, **settings: Any) -> AsyncIterator[Wire]:
    """Serve on a free port until the block ends."""
    config = ControlConfig(**{"port": 0, "data_dir": folder} | settings)
    async with (
        ControlPlane(config) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        accounts = server.services.accounts
        account = await accounts.bootstrap_local("ann")
        ann = await accounts.authenticate(account.api_key)
        await server.services.queues.save(ann, "ann", "default", resource="local-process")
        wire = Wire(server, http, ann)
        wire.ann = wire.caller(account.api_key)
        yield wire
