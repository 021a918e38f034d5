"""W&B's own client 0.31.0 as programs of a user, against a server that can be killed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.contract.wandb_client.environment import installed_client
from tests.e2e.harness.home import Daemon, Home, Result

_PROGRAMS = Path(__file__).parent / "wandb_programs"


class WandbUser:
    """Somebody with W&B's client and a key of our server, which keeps its port."""

    def __init__(self, home: Home, python: Path) -> None:
        self.home = home
        self._python = python
        self.folder = home.root / "wandb"
        self.folder.mkdir()
        port = yaml.safe_load(home.config.read_text())["control"]["port"]
        self.url = f"http://127.0.0.1:{port}"
        self.daemon: Daemon | None = None
        self.key = ""

    async def serve(self) -> None:
        """Start the server, or start it again."""
        self.daemon = await self.home.start("launch", "server")
        self.key = (self.home.root / "data" / "administrator.key").read_text().strip()

    async def kill_server(self) -> None:
        assert self.daemon is not None
        await self.daemon.kill()

    @property
    def env(self) -> dict[str, str]:
        names = ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")
        places = {f"WANDB_{name}": str(self.folder) for name in names}
        return places | {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key}

    async def run(self, program: str, *args: str, **env: str) -> Result:
        """Run one of the programs beside this module to its end."""
        path = str(_PROGRAMS / f"{program}.py")
        return await self.home.run(str(self._python), "-I", path, *args, **(self.env | env))

    async def value(self, program: str, *args: str, **env: str) -> Any:
        """What a program prints as JSON in its last line."""
        done = await self.run(program, *args, **env)
        assert done.code == 0, done.out + done.err
        return json.loads(done.out.splitlines()[-1])

    async def wandb(self, *args: str, **env: str) -> Result:
        """A command of W&B's."""
        return await self.home.run(
            str(self._python), "-I", "-m", "wandb", *args, **(self.env | env)
        )

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of a document, over the wire."""
        body = {"query": query, "variables": variables}
        headers = {"Authorization": aiohttp.encode_basic_auth("api", self.key)}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.url}/graphql", json=body) as answer,
        ):
            found = await answer.json()
        assert "errors" not in found, found["errors"]
        return found["data"]

    async def history(self, run: str, project: str = "vision") -> list[dict[str, Any]]:
        """All rows of a run's history as they are stored."""
        query = """query($p: String!, $r: String!) { project(name: $p) { run(name: $r) {
            history(minStep: 0) } } }"""
        found = await self.ask(query, p=project, r=run)
        return [json.loads(row) for row in found["project"]["run"]["history"]]


@asynccontextmanager
async def wandb_user(home: Home) -> AsyncIterator[WandbUser]:
    """With a server that runs."""
    user = WandbUser(home, await asyncio.to_thread(installed_client))
    await user.serve()
    yield user
