"""A machine that two entities share, with things on it that no job may find.

A control plane (`launch server`), and an agent for each of the entities `alice` and `mallory`, all
started by root on one machine with one engine. Mallory may submit to her own queues and use the
API with her own key, and nothing else. What she must not find are *canaries*: `canary-` and 32
hexadecimal digits, different for each place.
"""

import asyncio
import base64
import json
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.e2e.harness.home import Home, Result
from tests.infrastructure.process import free_port

#: Looks for canaries and keys in everything that a job can read: processes, files below $1, and
#: HTTP addresses in the other arguments. What it finds is printed as single characters, since the
#: agent would mask the values themselves; the job's own token is no finding.
PROBE = """\
shapes='canary-[0-9a-f]{32}|launch(run)?-[A-Za-z0-9_-]{40}'
root=$1; shift
{
    env
    cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'
    find "$root" /run/launch /run/secrets -xdev -type f -exec grep -aohE "$shapes" {} +
    for address; do wget -qO- -T 3 "$address" || true; done
} 2>/dev/null | grep -aoE "$shapes" | grep -vF "$WANDB_API_KEY" | sort -u |
    sed 's/./& /g;s/^/FOUND /'
echo PROBED
"""


class LoopbackServer:
    """A service of the host that listens on loopback only; counts who reached it."""

    def __init__(self, canary: str) -> None:
        self.canary = canary
        self.port = free_port()
        #: Method and path of every request.
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path_qs}")
        return web.Response(text=f"{self.canary}\n")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["LoopbackServer"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            yield self
        finally:
            await runner.cleanup()


@dataclass
class Entity:
    """One of the two, with a home for commands and the configuration of its agent."""

    name: str
    #: Where its people run commands, with their own key.
    home: Home
    #: Its agent's; belongs to the administrator of the machine.
    agent_home: Home
    key: str
    #: What this entity's agent holds, by where it is.
    canaries: dict[str, str]

    async def launch(self, *words: str, **env: str) -> Result:
        """`launch …` that must succeed."""
        done = await self.home.launch(*words, **env)
        assert done.code == 0, f"launch {shlex.join(words)}\n{done.out}{done.err}"
        return done


@dataclass
class SharedMachine:
    """The machine. `mallory` attacks, `alice` has something to lose."""

    root: Path
    url: str
    alice: Entity
    mallory: Entity
    loopback: LoopbackServer
    #: An image with a shell.
    image: str
    #: An item of alice's that ended, one that runs in a container, and one that runs as a process;
    #: all have a secret.
    ended: str = ""
    running: str = ""
    process: str = ""
    _codes: list[Path] = field(default_factory=list)

    @property
    def canaries(self) -> dict[str, str]:
        """Everything that must not be found, and where it was found then."""
        return {
            canary: place
            for entity in (self.alice, self.mallory)
            for place, canary in entity.canaries.items()
        } | {self.loopback.canary: "a service on the host's loopback"}

    def code(self, **files: str) -> Path:
        """A folder of mallory's with these files; `__` in a name is a full stop."""
        folder = self.mallory.home.root / f"code-{len(self._codes)}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        self._codes.append(folder)
        return folder

    async def submit(self, queue: str, *words: str) -> dict[str, Any]:
        """Submit to a queue of mallory's and wait for the end; the item, with `log` and `setup`."""
        done = await self.mallory.home.launch("submit", "-q", queue, "--wait", "--json", *words)
        if not done.out:  # refused before anything was sent
            assert done.code == 2, done.err
            return {"phase": "REFUSED", "message": done.err, "setup": "", "log": ""}
        return await self.item(done.json()["id"])

    async def push(self, queue: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Submit a launch spec as it is, without the checks of our command line."""
        document = (
            "mutation M($input: SubmitLaunchItemInput!) { submitLaunchItem(input: $input) { id } }"
        )
        given = {"entityName": "mallory", "queueName": queue, "runSpec": spec}
        answer = await self.query(self.mallory.key, document, input=given)
        if "errors" in answer:
            return {"phase": "REFUSED", "message": answer["errors"][0]["message"], "log": ""}
        item = answer["data"]["submitLaunchItem"]["id"]
        await self.mallory.home.launch("item", "logs", item, "--follow")
        return await self.item(item)

    async def item(self, item: str) -> dict[str, Any]:
        """An item of mallory's, with both of its logs."""
        shown = await self.mallory.home.item(item)
        shown["log"] = (await self.mallory.launch("item", "logs", item)).out
        setup = await self.mallory.launch("item", "logs", item, "--channel", "setup")
        shown["setup"] = setup.out
        return shown

    async def query(self, key: str, document: str, **variables: Any) -> dict[str, Any]:
        """The answer of the API to a holder of `key`."""
        basic = base64.b64encode(f"api:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        body = {"query": document, "variables": variables}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.url}/graphql", json=body) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found

    def assert_nothing_found(self, item: dict[str, Any]) -> None:
        """Neither a log of the item nor the loopback server shows that anything was found."""
        names = self.canaries
        found = [
            line.removeprefix("FOUND ").replace(" ", "")
            for line in item["log"].splitlines()
            if line.startswith("FOUND ")
        ]
        places = [names.get(each, f"a key: {each}") for each in found]
        whole = f"{item.get('message')}\n{item.get('setup', '')}\n{item['log']}"
        places += [place for canary, place in names.items() if canary in whole]
        assert not places, f"found: {places}\n{whole}"
        assert self.loopback.requests == [], whole


def _canary() -> str:
    return f"canary-{uuid.uuid4().hex}"


async def _entity(root: Path, admin: Home, url: str, name: str, user: str) -> Entity:
    """A user with a key, and the folder of the agent that will serve its queues."""
    made = await admin.launch("user", "create", name)
    assert made.code == 0, made.err
    key = (await admin.launch("key", "create", "--for-user", name, "--json")).json()["key"]
    home = Home(_folder(root / f"{name}-home", 0o700))
    home.env |= {"LAUNCH_SERVER": url, "LAUNCH_API_KEY": key}
    agent_key = await home.launch("key", "create", "--for-agent", "agent", "--json")
    assert agent_key.code == 0, agent_key.err
    # Alice's queues get her agent's secret; Mallory's do not get that of hers.
    listed = [f"{name}/{queue}" for queue in ("containers", "processes")]
    for queue, resource in (("containers", "local-container"), ("processes", "local-process")):
        template = {"resource_args": {resource: {"secrets": ["own"]}}} if name == "alice" else {}
        words = ("queue", "create", queue, "-r", resource, "--config", json.dumps(template))
        assert (await home.launch(*words)).code == 0

    canaries = {
        f"{place} of {name}'s agent": _canary()
        for place in ("a job secret", "a build secret", "a variable", "a file", "a git password")
    }
    secret, build, variable, file, password = canaries.values()
    agent_home = Home(_folder(root / f"{name}-agent", 0o711), {"AGENT_VARIABLE": variable})
    # Jobs of another user pass through it; they cannot list it.
    _folder(agent_home.root / "state", 0o711)
    for private, text in (("api-key", agent_key.json()["key"]), ("private", file)):
        (agent_home.root / private).write_text(text)
        (agent_home.root / private).chmod(0o600)
    canaries[f"the key of {name}'s agent"] = agent_key.json()["key"]
    agent_home.configure(
        {
            "server": {"url": url, "api_key_file": str(agent_home.root / "api-key")},
            "queues": ["containers", "processes"],
            "name": f"{name}-agent",
            "secrets": {
                "own": {
                    "value": secret,
                    "as_env": "OWN_SECRET",
                    "queues": listed if name == "alice" else ["alice/containers", "nobody/none"],
                }
            },
            "builder": {"secrets": {"index": {"value": build, "queues": ["nobody/none"]}}},
            "runners": {"local-process": {"enabled": True, "user": user}},
            "sources": {
                "git": {
                    "credentials": [
                        {
                            "url": "https://git.example.org/",
                            "username": name,
                            "password": {"value": password},
                        }
                    ]
                }
            },
            "stopped_run_timeout": "5s",
            "on_stop": "wait",
        }
    )
    agent_home.config.chmod(0o600)
    return Entity(name, home, agent_home, key, canaries)


def _folder(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


@asynccontextmanager
async def shared_machine(settings: dict[str, Any], image: str) -> AsyncIterator[SharedMachine]:
    """Everything up, one of alice's jobs ended and two running. `image`: one with a shell."""
    # Below /tmp: pytest's own folder may be entered by root only, as a job's user must not notice.
    root = Path(tempfile.mkdtemp(prefix="lt-"))
    root.chmod(0o711)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        loopback = await stack.enter_async_context(LoopbackServer(_canary()).serving())
        admin = Home(_folder(root / "server", 0o700))
        admin.configure(settings)
        stack.push_async_callback(admin.close)
        await admin.start("launch", "server")
        url = json.loads((admin.root / "state" / "embedded.json").read_text())["url"]
        # Each job as a process gets a user id of its own; no other test uses these.
        first = 1_000_000 + os.getpid() % 4096 * 128
        alice, mallory = await asyncio.gather(
            _entity(root, admin, url, "alice", f"{first}-{first + 63}"),
            _entity(root, admin, url, "mallory", f"{first + 64}-{first + 127}"),
        )
        for entity in (alice, mallory):
            stack.push_async_callback(entity.agent_home.close)
        starts = (entity.agent_home.start("launch-agent") for entity in (alice, mallory))
        daemons = await asyncio.gather(*starts)
        machine = SharedMachine(root, url, alice, mallory, loopback, image)
        alice.canaries["the output of alice's jobs"] = output = _canary()
        words = ("submit", "-q", "containers", "-d", image, "--json", "-E")
        # Command lines of processes can be read by every user of a machine, so the output is
        # made of two parts.
        printing = f"echo canary-$(echo {output.removeprefix('canary-')})"
        ended = await alice.launch(*words, shlex.join(["sh", "-c", printing]), "--wait")
        machine.ended = ended.json()["id"]
        sleeping = shlex.join(["sh", "-c", f"{printing}; sleep 86400"])
        machine.running = (await alice.launch(*words, sleeping)).json()["id"]
        code = _folder(alice.home.root / "code", 0o700)
        (code / "job.sh").write_text(f"{printing}; sleep 86400\n")
        words = ("submit", "-q", "processes", "-u", str(code), "--json", "-E", "sh job.sh")
        machine.process = (await alice.launch(*words)).json()["id"]
        for item in (machine.running, machine.process):
            await _started(alice, item)
        try:
            yield machine
        finally:
            for entity in (alice, mallory):
                ids = [item["id"] for item in await entity.home.items()]
                await entity.home.launch("item", "stop", *ids)
            for daemon in daemons:
                await daemon.terminate()


async def _started(entity: Entity, item: str) -> None:
    async with asyncio.timeout(120):
        while (await entity.home.item(item))["phase"] != "STARTED":
            await asyncio.sleep(0.1)
