"""The abuses of docs/threats.md that reach a running `launch server`, on each store.

One server per store, as a process with a configuration file, and people who have keys: `alice`,
who has something to lose, `mallory`, and the server's administrator. What abuses the agent's half
(sources, builds, jobs) is in `test_attacks.py`; single cases are in `tests/integration`.
"""

import asyncio
import io
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.contract.store.conftest import BOTH, make_postgres_database  # noqa: F401 -- a fixture
from tests.e2e.harness.home import Home
from tests.e2e.harness.token_attacks import Targets, caller, gave, item_of
from tests.infrastructure.process import free_port
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.uploading import Upload
from tests.integration.control_wire.wire import SPEC, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWER = {"query": "{ viewer { id } }"}
#: Requests of one key at once, and per second.
BURST, RATE = 400, 20
LIMITS = {
    "request_burst": BURST,
    "requests_per_second": RATE,
    "max_waiting": 30,
    "max_stored": "2MiB",
    "max_log": "64KiB",
    "head_timeout": "2s",
    "max_connections_per_address": 64,
    "token_grace": "1s",
}


@dataclass
class Target:
    """The server, its folders, and who has keys to it."""

    home: Home
    url: str
    http: aiohttp.ClientSession
    admin: Caller
    alice: Caller
    mallory: Caller
    nobody: Caller
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def caller(self, key: str) -> Caller:
        return caller(self.url, self.http, key)

    async def raw(self, data: bytes, *, then: float = 30.0) -> bytes:
        """Send bytes over a connection of one's own; all that is answered until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(then):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.fixture(scope="module", params=BOTH)
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the store."""
    if request.param == "sqlite":
        return {}
    return {"database_url": request.getfixturevalue("make_postgres_database")()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(
    store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    settings: dict[str, Any] = LIMITS | store | {"port": free_port()}
    home = Home(tmp_path_factory.mktemp("threats"))
    home.configure({"control": settings})
    # As a careless administrator starts it.
    before = os.umask(0)
    try:
        daemon = await home.start("launch", "server")
    finally:
        os.umask(before)
    url = f"http://127.0.0.1:{settings['port']}"
    keys = {}
    for name in ("boss", "alice", "mallory"):
        more = ("--admin",) if name == "boss" else ()
        assert (await home.launch("user", "create", name, *more)).code == 0
        made = await home.launch("key", "create", "--for-user", name, "--json")
        keys[name] = made.json()["key"]
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            people = {name: caller(url, http, key) for name, key in keys.items()}
            for name in ("alice", "mallory"):
                for queue in ("containers", "other"):
                    await _save_queue(people[name], name, queue)
            nobody = Caller(people["boss"].wire, None)
            yield Target(
                home, url, http, people["boss"], people["alice"], people["mallory"], nobody,
                daemon.log,
            )  # fmt: skip
    finally:
        await home.close()


async def _save_queue(who: Caller, entity: str, name: str, **more: Any) -> dict[str, Any]:
    given = {"entityName": entity, "name": name, "resource": "local-container"} | more
    return await who.ask(
        "mutation ($i: SaveLaunchQueueInput!) { saveLaunchQueue(input: $i) { id } }", i=given
    )


async def _agent_key(who: Caller, entity: str, *queues: str) -> str:
    made = await who.data(
        "mutation ($e: String, $q: [String!]) "
        '{ createLaunchAgentKey(entityName: $e, name: "a", queueNames: $q) { secret } }',
        e=entity, q=list(queues) or None,
    )  # fmt: skip
    key: str = made["createLaunchAgentKey"]["secret"]
    return key


# ------------------------------------------------------------------ who may do what


async def test_t01_nothing_opens_without_a_key(target: Target) -> None:
    for method, path in (
        ("POST", "/graphql"), ("GET", "/metrics"), ("POST", "/storage/contents"),
        ("GET", "/launch/items/x/attempts/1/logs/job"), ("POST", "/launch/sign-in-links"),
        ("POST", "/files/alice/default/r/file_stream"), ("POST", "/api/admin/users"),
        ("GET", "/artifactsV2/x/alice/p/c/x/" + "0" * 32 + "/f"), ("GET", "/nothing"),
    ):  # fmt: skip
        status = await target.nobody.status(method, path, json=VIEWER)
        assert status in {400, 401}, (method, path, status)
    assert await target.nobody.status("GET", "/launch") == 303


async def test_t02_no_guessed_name_or_id_shows_another_entity(target: Target) -> None:
    item = await item_of(target.alice, "alice", "containers")
    for document in (
        f'{{ launchItem(id: "{item}") {{ runSpec }} }}',
        '{ launchItems(entityName: "alice") { edges { node { id } } } }',
        '{ launchQueues(entityName: "alice") { id } }',
        '{ launchMembers(entityName: "alice") { user } }',
        '{ entity(name: "alice") { id members { name } } }',
        '{ models(entityName: "alice") { edges { node { name } } } }',
        f'mutation {{ stopLaunchItem(id: "{item}") {{ id }} }}',
    ):
        answer = await target.mallory.ask(document)
        assert not gave(answer), (document, answer)
    absent, hidden = [
        await target.mallory.ask(f'mutation {{ stopLaunchItem(id: "{each}") {{ id }} }}')
        for each in ("nosuchitem00", item)
    ]
    assert json.dumps(absent).replace("nosuchitem00", item) == json.dumps(hidden)


async def test_t03_a_viewer_changes_nothing(target: Target) -> None:
    await target.alice.data('mutation { createLaunchTeam(name: "crew") { id } }')
    await target.admin.data(
        'mutation { setLaunchMember(entityName: "crew", userName: "mallory", role: VIEWER) }'
    )
    await _save_queue(target.alice, "crew", "q")
    assert gave(await target.mallory.ask('{ launchQueues(entityName: "crew") { id } }'))
    for document in (
        'mutation { deleteLaunchQueue(entityName: "crew", name: "q") }',
        'mutation { pauseLaunchQueue(entityName: "crew", name: "q", paused: true) { id } }',
        'mutation { setLaunchMember(entityName: "crew", userName: "mallory", role: ADMIN) }',
        'mutation { createLaunchAgentKey(entityName: "crew", name: "x") { secret } }',
        'mutation { createLaunchUser(name: "eve") { id } }',
        'mutation { upsertModel(input: {entityName: "crew", name: "p"}) { project { id } } }',
        "{ launchUsers { name } }",
        "{ launchKeys(all: true) { id } }",
    ):
        answer = await target.mallory.ask(document)
        assert not gave(answer), (document, answer)
        assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"


async def test_t04_fields_that_nobody_may_set_are_refused(target: Target) -> None:
    for more in (
        {"author": "alice"},
        {"phase": "SUCCEEDED"},
        {"createdAt": "2020-01-01T00:00:00Z"},
    ):
        given = {"entityName": "mallory", "queueName": "containers", "runSpec": SPEC} | more
        answer = await target.mallory.ask(
            "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }", i=given
        )
        assert not gave(answer), answer
        assert next(iter(more)) in answer["errors"][0]["message"]
    answer = await _save_queue(target.mallory, "mallory", "fresh", createdBy="alice")
    assert not gave(answer)


async def test_t05_an_agent_key_serves_its_queues_and_dies_at_once(target: Target) -> None:
    robot = target.caller(await _agent_key(target.alice, "alice", "other"))
    agent = await Agent.register(robot, "alice", "other", name="bound")
    answer = await robot.ask(
        "mutation ($i: RegisterLaunchAgentInput!) { registerLaunchAgent(input: $i) "
        "{ agent { id } } }",
        i={"entityName": "alice", "name": "x", "hostname": "h", "queueNames": ["containers"],
           "identity": "i", "session": "s", "resources": ["local-container"],
           "capacity": {"slots": 1}, "config": {}},
    )  # fmt: skip
    assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    assert await agent.claim() == [], "alice's item is on the queue `containers`"
    listed = await target.alice.data('{ launchKeys(entityName: "alice") { id name } }')
    for key in listed["launchKeys"]:
        await target.alice.data(f'mutation {{ revokeLaunchKey(id: "{key["id"]}") }}')
    assert await robot.status("POST", "/graphql", json=VIEWER) == 401


async def test_t07_and_t50_no_other_agent_ends_an_item_or_takes_an_identity(
    target: Target,
) -> None:
    item = await item_of(target.alice, "alice", "other")
    keys = [await _agent_key(target.alice, "alice", "other") for _ in range(2)]
    holder = await Agent.register(target.caller(keys[0]), "alice", "other", name="holder")
    other = await Agent.register(target.caller(keys[1]), "alice", "other", name="other")
    (claim,) = await holder.claim("t07")
    assert claim["itemId"] == item
    outcome = {"phase": "SUCCEEDED", "cause": "SUCCEEDED", "message": "done", "exitCode": 0}
    document = "mutation ($i: FinishLaunchItemInput!) { finishLaunchItem(input: $i) { status } }"
    forged = await other.caller.ask(document, i=other.lease(claim) | outcome)
    assert forged.get("data", {}).get("finishLaunchItem") in (None, {"status": "FENCED"}), forged
    stolen = await other.caller.ask(document, i=holder.lease(claim) | outcome)
    assert stolen["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    with pytest.raises(AssertionError, match="registered with another key"):
        await Agent.register(target.caller(keys[1]), "alice", "other", name="holder")
    assert await holder.write("permitLaunchStart", "LeaseInput", claim) == "HELD"
    assert (
        await holder.write("finishLaunchItem", "FinishLaunchItemInput", claim, **outcome) == "HELD"
    )


async def test_t37_a_run_token_opens_its_own_run_and_dies(target: Target) -> None:
    targets = await Targets.make(target.mallory, target.alice, "other")
    await item_of(target.mallory, "mallory", "containers")
    robot = target.caller(await _agent_key(target.mallory, "mallory", "containers"))
    agent = await Agent.register(robot, "mallory", "containers", name="runs-it")
    (claim,) = await agent.claim("t37")
    job = target.caller(claim["runToken"])
    before = await targets.state()
    for what, attack in targets.documents().items():
        answer = await job.ask(attack)
        assert not gave(answer), (what, answer)
    for what, (method, path) in targets.routes().items():
        status = await job.status(method, path, json={"files": {}})
        assert status in {401, 403, 404}, (what, status)
    assert await targets.state() == before
    assert await job.status("POST", "/graphql", json=VIEWER) == 200
    assert await agent.write("permitLaunchStart", "LeaseInput", claim) == "HELD"
    ended = {"phase": "FAILED", "cause": "RUN_EXIT_CODE", "message": "exit code 1", "exitCode": 1}
    assert await agent.write("finishLaunchItem", "FinishLaunchItemInput", claim, **ended) == "HELD"
    async with asyncio.timeout(60):
        while await job.status("POST", "/graphql", json=VIEWER) != 401:
            await asyncio.sleep(0.1)


# ------------------------------------------------------------------ what a request may be


@pytest.mark.parametrize(
    "document",
    [
        "{" + "a{" * 40 + "b" + "}" * 41,
        "{" + " ".join(f"a{n}: viewer {{ id }}" for n in range(200)) + "}",
        "query { ...A } fragment A on Query { ...B ...B } fragment B on Query { ...A ...A }",
        "{ viewer " + "@skip(if: false) " * 3000 + "{ id } }",
        "mutation {" + " ".join(f'a{n}: revokeLaunchKey(id: "{n}")' for n in range(1000)) + "}",
        '{ launchItems(first: 1000000, entityName: "mallory") { totalCount } }',
        '{ launchItems(first: -1, entityName: "mallory") { totalCount } }',
    ],
    ids=["deep", "aliases", "cyclic", "directives", "tries", "page", "negative"],
)
async def test_t08_to_t12_documents_without_end_are_refused(target: Target, document: str) -> None:
    async with asyncio.timeout(20):
        answer = await target.mallory.ask(document)
    assert not any((answer.get("data") or {}).values()), answer
    assert "internal error" not in json.dumps(answer)


async def test_t10_several_requests_in_one_are_refused(target: Target) -> None:
    assert await target.mallory.status("POST", "/graphql", json=[VIEWER] * 100) == 400


async def test_t11_bodies_that_are_large_packed_or_late_are_refused(target: Target) -> None:
    large = io.BytesIO(b'{"query": "' + b"x" * 33 * 1024**2)
    kind = {"Content-Type": "application/json"}
    assert await target.mallory.status("POST", "/graphql", data=large, headers=kind) == 413
    packed = kind | {"Content-Encoding": "gzip"}
    status = await target.mallory.status("POST", "/graphql", data=b"\x1f\x8b00", headers=packed)
    assert status in {400, 415}
    answer = await target.raw(b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    assert answer == b"", "the rest of the head never comes"


async def test_t13_nobody_reads_the_schema_and_nobody_a_traceback(target: Target) -> None:
    schema = {"query": "{ __schema { types { name } } }"}
    assert await target.nobody.status("POST", "/graphql", json=schema) == 401
    assert "Traceback" not in target.log.read_text()


@pytest.mark.parametrize("text", ["' OR '1'='1", "'; DROP TABLE items; --", "%", "\\", '"'])
async def test_t14_quotes_in_names_and_filters_are_names(target: Target, text: str) -> None:
    for document in (
        "query ($t: String) { launchItems(entityName: $t) { totalCount } }",
        'query ($t: String) { launchItems(entityName: "mallory", queueName: $t) { totalCount } }',
        'query ($t: String) { project(name: $t, entityName: "mallory") { runs { totalCount } } }',
        'query ($t: String) { launchItems(entityName: "mallory", after: $t) { totalCount } }',
    ):
        answer = await target.mallory.ask(document, t=text)
        assert not gave(answer), answer
        assert "internal error" not in json.dumps(answer)
    assert gave(await target.alice.ask('{ launchItems(entityName: "alice") { totalCount } }'))


# ------------------------------------------------------------------ browsers


async def _cookie(target: Target, who: Caller) -> dict[str, str]:
    form, headers = {"key": who.key, "next": "/launch"}, {"Origin": target.url}
    async with target.nobody.request("POST", "/login", data=form, headers=headers) as answer:
        assert answer.status == 303
        morsel = next(iter(answer.cookies.values()))
    return {"Cookie": f"{morsel.key}={morsel.value}"}


async def test_t15_t18_a_page_of_another_site_changes_and_reads_nothing(target: Target) -> None:
    cookie = await _cookie(target, target.alice)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
        status = await target.nobody.status(
            "POST", "/graphql", json=VIEWER, headers=cookie | headers
        )
        assert status == 403, headers
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        headers = cookie | {"Origin": target.url, "Content-Type": kind}
        assert await target.nobody.status("POST", "/graphql", data=b"{}", headers=headers) == 400
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with target.nobody.request("OPTIONS", "/graphql", headers=asked) as answer:
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_t16_t17_a_foreign_or_doubled_host_is_misdirected(target: Target) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "a/?x="):
        assert await target.nobody.status("GET", "/healthz", headers={"Host": host}) in {400, 421}
    forwarded = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}
    assert await target.nobody.status("GET", "/healthz", headers=forwarded) == 421
    for hosts in (b"Host: localhost\r\nHost: evil.example\r\n", b""):
        head = b"GET /metrics HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n"
        assert (await target.raw(head)).split()[1] in {b"400", b"421"}


async def test_t19_names_and_logs_are_text_on_pages(target: Target) -> None:
    script = "<script>alert(1)</script>"
    spec = SPEC | {"name": script}
    given = {"entityName": "mallory", "queueName": "containers", "runSpec": spec}
    made = await target.mallory.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }", i=given
    )
    cookie = await _cookie(target, target.mallory)
    for path in (
        f"/launch/items/{made['submitLaunchItem']['id']}",
        "/launch/queues/mallory/containers",
    ):
        async with target.nobody.request("GET", path, headers=cookie) as answer:
            text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert answer.status == 200
        assert script not in text
        assert "unsafe" not in policy


# ------------------------------------------------------------------ amounts


async def test_t46_one_entity_uses_up_neither_queue_nor_disk(target: Target) -> None:
    files = {f"f{number}": secrets.token_bytes(600_000) for number in range(5)}
    place = {"entityName": "mallory", "projectName": "default"}
    upload = await Upload(target.mallory, "large", files, place=place).create()
    nodes = await upload.announce()
    statuses = [await upload.put(nodes[name], files[name]) for name in files]
    assert statuses == [200, 200, 200, 413, 413]
    answers = [
        await target.mallory.ask(
            "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
            i={"entityName": "mallory", "queueName": "containers", "runSpec": SPEC},
        )
        for _ in range(40)
    ]
    assert not gave(answers[-1])
    assert "are waiting, and more are not accepted" in answers[-1]["errors"][0]["message"]
    await item_of(target.alice, "alice", "containers")
    hers = {"f": secrets.token_bytes(600_000)}
    place = {"entityName": "alice", "projectName": "default"}
    await Upload(target.alice, "mine", hers, place=place).whole()


async def test_t47_bombs_in_schemas_and_documents_cost_nothing(target: Target) -> None:
    levels = {"l0": {"type": "string"}} | {
        f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n - 1}"}] * 2} for n in range(1, 60)
    }
    for schema in (
        {"type": "string", "pattern": "^(a+)+$"},
        {"$defs": levels, "$ref": "#/$defs/l59"},
        json.loads('{"items":' * 80 + "{}" + "}" * 80),
    ):
        async with asyncio.timeout(30):
            await _save_queue(
                target.mallory, "mallory", "bombs",
                config={"resource_args": {"local-container": {"memory": "{{size}}"}}},
                templateVariables={"size": {"schema": schema}},
            )  # fmt: skip
            given = {"entityName": "mallory", "queueName": "bombs", "runSpec": SPEC,
                     "templateVariables": {"size": "a" * 40 + "!"}}  # fmt: skip
            answer = await target.mallory.ask(
                "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
                i=given,
            )
        assert not gave(answer), answer
        assert await target.alice.status("POST", "/graphql", json=VIEWER) == 200


async def test_t53_a_flood_is_told_to_wait_and_others_are_served(target: Target) -> None:
    refused: list[str] = []

    async def ask_until_refused() -> None:
        while len(refused) < BURST // 4:
            async with target.mallory.request("POST", "/graphql", json=VIEWER) as answer:
                if answer.status == 429:
                    refused.append(answer.headers.get("Retry-After", ""))

    await asyncio.gather(*(ask_until_refused() for _ in range(30)))
    assert all(after.isdigit() for after in refused)
    assert await target.alice.status("POST", "/graphql", json=VIEWER) == 200


async def test_t53_one_address_leaves_connections_for_others(target: Target) -> None:
    held = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(200)]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", target.port, local_addr=("127.0.0.2", 0)
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        for each in held:
            each.close()


# ------------------------------------------------------------------ what stays behind


async def test_t36_t49_files_are_the_owners_and_logs_have_no_keys(target: Target) -> None:
    data = target.home.root / "data"
    for path in (data, *data.rglob("*")):
        if path.is_symlink() or stat.S_ISSOCK(path.lstat().st_mode):
            continue
        # What is below a folder that only its owner may enter is read by nobody else.
        within = [each for each in (path, *path.parents) if each == data or data in each.parents]
        private = any(stat.S_IMODE(each.stat().st_mode) & 0o077 == 0 for each in within)
        assert private, path
    keys = [who.key or "" for who in (target.admin, target.alice, target.mallory)]
    text = target.log.read_text()
    assert not [key for key in keys if key in text]
    assert not re.search(r"launch(run)?-[A-Za-z0-9_-]{40}", text)
    stored = b"".join(path.read_bytes() for path in data.rglob("*.db*") if path.is_file())
    assert not [key for key in keys if key.encode() in stored]


async def test_t52_changes_and_refusals_are_in_the_audit_log(target: Target) -> None:
    await _agent_key(target.alice, "alice")
    refused = await target.mallory.ask(
        'mutation { createLaunchAgentKey(entityName: "alice", name: "x") { secret } }'
    )
    assert not gave(refused)
    found = await target.admin.data(
        "{ launchAudit(first: 100) { edges { node { action actor result } } } launchAuditProblem }"
    )
    entries = [edge["node"] for edge in found["launchAudit"]["edges"]]
    assert {"alice", "mallory"} <= {entry["actor"] for entry in entries}
    assert {entry["result"] for entry in entries} > {"done"}
    assert found["launchAuditProblem"] is None


async def test_t06_guessing_is_slowed_and_right_keys_still_work(target: Target) -> None:
    """Last: wrong keys from this address are refused for a while."""
    codes = []
    for _ in range(1000):
        wrong = target.caller(f"launch-{secrets.token_urlsafe(30)}")
        codes.append(await wrong.status("POST", "/graphql", json=VIEWER))
    assert codes[0] == 401
    assert codes[-1] == 429
    assert await target.alice.status("POST", "/graphql", json=VIEWER) == 200
