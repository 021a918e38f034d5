"""A user with an agent of their own, and the commands of the documents in their words."""

import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.harness.home import Home, Result
from tests.infrastructure.state import GitFacts

#: Prints what a job sees of its launch.
PROGRAM = """\
import json, os, platform, sys
print("config", os.environ.get("WANDB_CONFIG", ""))
print("python", platform.python_version(), "words", sys.argv[1:])
print("files", sorted(os.listdir(".")))
"""
REQUIRING = "import six\nprint('six', six.__version__)\n"


@dataclass
class User:
    """Runs commands in a home where an agent serves the queue `default`."""

    home: Home
    entity: str
    url: str
    key: str

    async def launch(self, line: str, **env: str) -> Result:
        """`launch …`, with `{E}` for the entity, that must succeed."""
        done = await self.fails(line, **env)
        assert done.code == 0, f"launch {line}\n{done.out}{done.err}"
        return done

    async def fails(self, line: str, **env: str) -> Result:
        """The same, however it ends."""
        words = shlex.split(line.replace("{E}", self.entity).removeprefix("launch "))
        return await self.home.launch(*words, **env)

    async def json(self, line: str) -> Any:
        return (await self.launch(f"{line} --json")).json()

    async def job(self, place: str) -> dict[str, Any]:
        """`launch job describe E/place`."""
        found: dict[str, Any] = await self.json(f"job describe {{E}}/{place}")
        return found

    async def run(self, line: str) -> tuple[dict[str, Any], str]:
        """Submit, wait until it has succeeded: the item and what it printed."""
        done = await self.fails(f"{line} --wait --json")
        assert done.out, f"launch {line}\n{done.err}"
        item = done.json()
        shown = await self.home.item(item["id"])
        log = (await self.launch(f"item logs {item['id']}")).out
        assert shown["phase"] == "SUCCEEDED", f"{shown['message']}\n{log}"
        return shown, log

    async def items(self) -> list[dict[str, Any]]:
        return await self.home.items()

    def write(self, files: dict[str, str], folder: str = "code") -> Path:
        """Files below a folder of the home."""
        for name, text in files.items():
            path = self.home.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self.home.root / folder

    async def page(self, path: str) -> str:
        """A page, as who signed in with the key sees it."""
        jar = aiohttp.CookieJar(unsafe=True)
        headers = {"Origin": self.url}
        async with aiohttp.ClientSession(self.url, cookie_jar=jar, headers=headers) as session:
            async with session.post("/login", data={"key": self.key}) as answer:
                assert answer.status == 200
            async with session.get(path) as answer:
                text = await answer.text()
                assert answer.status == 200, text
                return text


@asynccontextmanager
async def at_home(home: Home) -> AsyncIterator[User]:
    """The user, once the agent answers; commands read the agent's configuration, too."""
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default", "--name", "desk")
    found = json.loads((home.root / "state" / "embedded.json").read_text())
    yield User(home, found["entity"], found["url"], found["api_key"])


def git_settings(git: GitFacts) -> dict[str, Any]:
    """The password for HTTPS and the key for SSH, as an administrator gives them."""
    credential = {
        "url": git.https_url.rsplit("/", 1)[0],
        "username": git.https_username,
        "password": {"value": git.https_password},
    }
    access = {
        "credentials": [credential],
        "ca_bundle": git.https_ca_file,
        "ssh_key": git.ssh_key_file,
        "known_hosts": git.ssh_known_hosts_file,
    }
    return {"sources": {"git": access}}
