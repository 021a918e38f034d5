"""Values that no database and no other language takes: refused with a sentence, never a 500."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    get_named_type,
    is_leaf_type,
)

from agent.control.graphql.schema import build_schema
from tests.contract.store.conftest import make_postgres_database  # noqa: F401 -- a fixture
from tests.integration.control_wire.wire import SPEC, open_wire

SCHEMA = build_schema()
FIELDS = [
    (kind, name)
    for kind, root in (("query", SCHEMA.query_type), ("mutation", SCHEMA.mutation_type))
    for name in root.fields
]
TEXTS = ["a\0b", "\0", "half \ud800", "\udfff", "x" * 300_000, "9" * 5000, "٣", "²", "-1", "%00"]
NUMBERS = [2**31, 2**63, -(2**63) - 1, 10**400, 1.5, 1e308, -1]
DOCUMENTS = [
    {"a": "\0"}, {"half \ud800": 1}, {"a": 2**70}, {"a": [-(10**30)]}, {"a": float("inf")},
    json.loads("[" * 500 + "]" * 500), {"retries": 2**40}, {"name": "a\0b"}, {"project": "\ud800"},
    {"resources": {"memory": 2**80, "cpus": 1e308}}, {"timeout": "9" * 400}, [], 7, None,
]  # fmt: skip
HOSTILE = {
    "String": TEXTS, "ID": TEXTS, "Int": NUMBERS, "Float": NUMBERS, "Int64": [*NUMBERS, *TEXTS],
    "Duration": [*NUMBERS, *TEXTS],
    "Boolean": [7, "\0"], "JSON": DOCUMENTS, "JSONString": [*map(json.dumps, DOCUMENTS), *TEXTS],
    "DateTime": TEXTS,
}  # fmt: skip
PLAIN = {
    "String": "default", "ID": "x", "Int": 1, "Float": 1.0, "Int64": 1, "Boolean": False,
    "Duration": 1,
    "JSON": SPEC, "JSONString": json.dumps(SPEC), "DateTime": "2026-01-02T03:04:05Z",
}  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "sqlite":
        return {}
    return {"database_url": request.getfixturevalue("make_postgres_database")()}


@pytest.fixture
async def served(settings: dict[str, Any], tmp_path):
    async with open_wire(tmp_path / "data", **settings) as opened:
        yield opened


def plain(kind: Any, depth: int = 0) -> Any:
    match kind:
        case GraphQLNonNull(of_type=inner):
            return plain(inner, depth)
        case GraphQLList(of_type=inner):
            return [plain(inner, depth)]
        case GraphQLInputObjectType(fields=fields):
            return {
                name: plain(field.type, depth + 1)
                for name, field in fields.items()
                if isinstance(field.type, GraphQLNonNull) or depth == 0
            }
        case GraphQLEnumType(values=values):
            return next(iter(values))
        case _:
            return PLAIN[kind.name]


def hostile(kind: Any, depth: int = 0) -> Iterator[Any]:
    """Values of a type, each with one hostile leaf."""
    match kind:
        case GraphQLNonNull(of_type=inner):
            yield from hostile(inner, depth)
        case GraphQLList(of_type=inner):
            yield from ([each] for each in hostile(inner, depth))
        case GraphQLInputObjectType(fields=fields) if depth < 3:
            around = plain(kind)
            for name, field in fields.items():
                yield from ({**around, name: each} for each in hostile(field.type, depth + 1))
        case GraphQLInputObjectType():
            return
        case GraphQLEnumType():
            yield "\0"
        case _:
            yield from HOSTILE[kind.name]


def document(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    root = SCHEMA.query_type if kind == "query" else SCHEMA.mutation_type
    field = root.fields[name]
    declared = ", ".join(f"${each}: {argument.type}" for each, argument in field.args.items())
    given = ", ".join(f"{each}: ${each}" for each in field.args)
    answer = "" if is_leaf_type(get_named_type(field.type)) else " { __typename }"
    text = f"{kind} Q({declared}) {{ {name}({given}){answer} }}" if declared else ""
    return text, dict(field.args)


async def test_no_argument_of_any_field_makes_the_server_fail(served) -> None:
    failed: list[str] = []
    for kind, name in FIELDS:
        text, arguments = document(kind, name)
        around = {each: plain(argument.type) for each, argument in arguments.items()}
        for each, argument in arguments.items():
            for value in hostile(argument.type):
                body = json.dumps({"query": text, "variables": {**around, each: value}})
                headers = {"Content-Type": "application/json"}
                async with served.ann.request(
                    "POST", "/graphql", data=body.encode(), headers=headers
                ) as answer:
                    shown = await answer.text()
                if answer.status >= 500 or "SERVER_ERROR" in shown:
                    failed.append(f"{name}.{each} = {body[-200:]!r}: {shown[:200]}")
    assert not failed, "\n".join(failed[:40])


@pytest.mark.parametrize("text", [r"a\u0000b", r"\uD800", "9" * 30], ids=range(3))
async def test_literals_of_a_document_are_held_to_the_same_rule(served, text: str) -> None:
    written = text if text.isdigit() else f'"{text}"'
    given = f'{{queueName: "default", runSpec: {{a: {written}}}}}'
    query = f"{{ launchDryRun(input: {given}) {{ queueName }} }}"
    assert await served.ann.code(query) in {"INVALID_INPUT", "GRAPHQL_PARSE_FAILED"}


async def test_bodies_that_are_no_json_are_told_so(served) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (
        b'{"query": "\xed\xa0\x80"}', b"\xff\xfe{\x00",
        b'{"query": "\\ud800"}', b'{"a": "\\u0000"}',
        b"[" * 100_000, b'{"query": 1e999999, "variables": ' + b"9" * 5000 + b"}", b"",
    ):  # fmt: skip
        async with served.ann.request("POST", "/graphql", data=body, headers=headers) as answer:
            assert answer.status == 400, body[:40]
            assert (await answer.json())["errors"][0]["message"].endswith((".", "'."))


PATHS = [
    "/launch/items/%00", "/launch/items/%ED%A0%80", "/launch/queues/ann/%00",
    "/launch/queues/%00/x",
    "/launch/jobs/ann/default/%00", "/launch/agents/%C0%80", "/launch/jobs?entity=%00",
    "/launch/items/x/attempts/99999999999999999999/logs/job",
    "/launch/items/x/attempts/%C2%B2/logs/job",
    "/launch/items/%C2%B2/attempts/1/logs/job",
    "/launch/items/x/attempts/1/logs/job?offset=" + "9" * 5000,
    "/files/ann/default/%00/file_stream", "/artifactsV2/a/ann/%00/b/c/" + "0" * 32 + "/n",
    "/login?next=%00", "/launch/events?item=%00&entity=%00",
    "/storage/contents/%00/" + "0" * 32 + "/n",
    "/storage/contents/ann/" + "0" * 32 + "/n?expires=" + "9" * 5000 + "&signature=x",
]  # fmt: skip


async def test_no_path_and_no_header_makes_the_server_fail(served) -> None:
    from yarl import URL

    headers: list[dict[str, str]] = [
        {}, {"Content-MD5": "\x80"}, {"Cookie": "launch_session=\x80"}, {"Origin": "http://[::1"},
        {"Content-Type": "application/json; charset=nonsense"}, {"Range": "bytes=9-1"},
        {"Authorization": "Basic \x80"}, {"Sec-Fetch-Site": "\x80"},
    ]  # fmt: skip
    for path in PATHS:
        for method in ("GET", "POST", "PUT", "HEAD"):
            for extra in headers:
                url = URL(served.server.url + path, encoded=True)
                with_key = served.ann.headers | extra
                async with served.http.request(
                    method, url, headers=with_key, allow_redirects=False
                ) as answer:
                    assert answer.status < 500, (method, path, extra, await answer.text())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"key=%00&next=%00", "application/x-www-form-urlencoded"),
        (b"key=%ED%A0%80", "application/x-www-form-urlencoded"),
        (b"key=\xff", "application/x-www-form-urlencoded; charset=nonsense"),
        (b"key=\xff\xfe", "application/x-www-form-urlencoded"),
        (b"--b\r\n", "multipart/form-data; boundary=b"),
        (b"x", "multipart/form-data"),
        (b'--b\r\nContent-Disposition: form-data; name="key"; filename="x"\r\n\r\n\0\r\n--b--\r\n',
         "multipart/form-data; boundary=b"),
        (b"&".join(b"a=b" for _ in range(20_000)), "application/x-www-form-urlencoded"),
    ],
    ids=range(8),
)  # fmt: skip
async def test_no_form_makes_the_server_fail(served, body: bytes, kind: str) -> None:
    for path in ("/login", "/logout", "/launch/jobs/ann/default/x", "/launch/items/%00/stop"):
        headers = {"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
        async with served.ann.request("POST", path, data=body, headers=headers) as answer:
            assert answer.status < 500, (path, await answer.text())


async def test_reports_of_runs_keep_what_runs_may_say(served) -> None:
    """A seed of 128 bits and a NUL in a text are a run's own data."""
    config = json.dumps({"seed": {"value": 2**128}, "separator": {"value": "\0"}})
    query = """mutation M($config: JSONString) { upsertBucket(input: {
      modelName: "default", name: "r1", config: $config}) { bucket { config } } }"""
    made = await served.ann.data(query, config=config)
    assert json.loads(made["upsertBucket"]["bucket"]["config"])["seed"]["value"] == 2**128
    path = "/files/ann/default/r1/file_stream"
    lines = {"files": {"output.log": {"offset": 0, "content": ["a\0b"]}}}
    assert await served.ann.status("POST", path, json=lines) == 200
    assert await served.ann.status("POST", path, json={"complete": True, "exitcode": 2**40}) == 400
