"""The transport: what is repeated, what is not, and what errors become."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from agent.model.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    FencedError,
    InvalidInputError,
    LaunchError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)
from agent.remote.client import ControlPlaneClient, Endpoint, RetryPolicy
from agent.remote.retry_rules import STATUS_RULES, Retry, rule_for
from tests.infrastructure.process import free_port
from tests.unit.remote.far_end import FarEnd, cut, data, error, reply

QUERY = "query Q { viewer { id } }"
MUTATION = "mutation M { go }"


async def test_a_document_goes_out_with_key_and_name(
    client: ControlPlaneClient, end: FarEnd
) -> None:
    end.then(data(viewer={"id": "1"}))
    assert await client.execute(QUERY, {"a": 1}) == {"viewer": {"id": "1"}}
    assert end.seen[0][:2] == ("POST", "/graphql")
    assert end.asked() == {"query": QUERY, "variables": {"a": 1}}
    assert end.headers[0]["User-Agent"] == "launch-agent/test"
    assert end.headers[0]["Authorization"].startswith("Basic ")


async def test_texts_that_servers_refuse_are_replaced(
    client: ControlPlaneClient, end: FarEnd
) -> None:
    """An outcome quotes what a program printed, and must arrive."""
    end.then(data(ok=True))
    await client.execute(QUERY, {"a": "half \ud800 no\0 \\u0000 \\\0", "b\0": "é"})
    assert end.asked()["variables"] == {
        "a": "half ? no\ufffd \\u0000 \\\ufffd",
        "b\ufffd": "é",
    }


async def test_one_connection_serves_many_calls(client: ControlPlaneClient, end: FarEnd) -> None:
    ports = set()

    async def answer(request: object) -> object:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await data(ok=True)(request)

    end.then(answer)
    for _ in range(5):
        await client.execute(QUERY)
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", NotFoundError),
        ("INVALID_INPUT", InvalidInputError),
        ("ALREADY_EXISTS", AlreadyExistsError),
        ("CONFLICT", ConflictError),
        ("FORBIDDEN", PermissionDeniedError),
        ("UNAUTHENTICATED", AuthenticationError),
        ("FENCED", FencedError),
        ("SERVER_ERROR", ServerError),
        ("SOMETHING_NEW", ServerError),
        (None, ServerError),
    ],
)
async def test_a_code_of_the_wire_becomes_its_error(
    client: ControlPlaneClient, end: FarEnd, code: str | None, kind: type[LaunchError]
) -> None:
    end.then(error(code, "No queue 'q'.", "Make one."))
    with pytest.raises(kind) as caught:
        await client.execute(QUERY)
    assert caught.value.message == "No queue 'q'."
    assert caught.value.hint == ("Make one." if code else None)
    assert len(end.seen) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, InvalidInputError),
        (422, InvalidInputError),
        (500, ServerError),
    ],
)
async def test_a_status_becomes_its_error_and_is_not_repeated(
    client: ControlPlaneClient, end: FarEnd, status: int, kind: type[LaunchError]
) -> None:
    end.then(reply(status, {"errors": [{"message": "because"}]}))
    with pytest.raises(kind, match="because"):
        await client.execute(QUERY)
    assert len(end.seen) == 1


async def test_a_code_in_the_body_is_better_than_the_status(
    client: ControlPlaneClient, end: FarEnd
) -> None:
    end.then(reply(409, {"errors": [{"message": "gone", "extensions": {"code": "FENCED"}}]}))
    with pytest.raises(FencedError):
        await client.send("POST", "/x")


@pytest.mark.parametrize("status", sorted(STATUS_RULES))
async def test_a_query_is_repeated_where_the_table_says_so(
    client: ControlPlaneClient, end: FarEnd, slept: list[float], status: int
) -> None:
    end.then(reply(status, b"busy"), reply(status, b"busy"), data(ok=True))
    assert await client.execute(QUERY) == {"ok": True}
    assert len(slept) == 2


@pytest.mark.parametrize("status", sorted(STATUS_RULES))
async def test_a_mutation_is_repeated_only_if_it_was_not_carried_out(
    client: ControlPlaneClient, end: FarEnd, status: int
) -> None:
    end.then(reply(status, b"busy"), data(ok=True))
    if STATUS_RULES[status].retry is Retry.ALWAYS:
        assert await client.execute(MUTATION) == {"ok": True}
    else:
        with pytest.raises(UnreachableError):
            await client.execute(MUTATION)
        assert len(end.seen) == 1


async def test_a_cut_answer_repeats_what_is_idempotent_only(
    client: ControlPlaneClient, end: FarEnd
) -> None:
    end.then(cut, data(ok=True))
    assert await client.execute(MUTATION, idempotent=True) == {"ok": True}
    end.then(cut, data(ok=True))
    end.answers.pop(0)
    with pytest.raises(UnreachableError):
        await client.execute(MUTATION)


async def test_the_server_says_how_long_to_wait(
    client: ControlPlaneClient, end: FarEnd, slept: list[float]
) -> None:
    end.then(reply(429, b"", {"Retry-After": "1"}), data(ok=True))
    await client.execute(QUERY)
    assert slept[0] >= 1.0


async def test_retries_end_and_the_last_error_is_raised(end: FarEnd) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    end.then(reply(503, {"errors": [{"message": "starting up"}]}, {"Retry-After": "60"}))
    async with ControlPlaneClient(Endpoint(end.url), sleep=sleep) as client:
        with pytest.raises(UnreachableError, match="starting up"):
            await client.execute(QUERY)
    assert waited == []


async def test_a_call_has_a_deadline_of_its_own(client: ControlPlaneClient, end: FarEnd) -> None:
    over = asyncio.Event()

    async def silent(request: object) -> object:
        await over.wait()
        return await data()(request)

    end.then(silent)
    with pytest.raises(UnreachableError, match="did not answer within"):
        await client.execute(QUERY, deadline=0.05)
    over.set()


async def test_nobody_listens() -> None:
    port = free_port()
    policy = RetryPolicy(total=0.0)
    async with ControlPlaneClient(
        Endpoint(f"http://127.0.0.1:{port}"), retry_policy=policy
    ) as client:
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}") as caught:
            await client.execute(QUERY)
    assert caught.value.exit_code == 3


async def test_redirects_are_not_followed(client: ControlPlaneClient, end: FarEnd) -> None:
    end.then(reply(302, b"", {"Location": "http://elsewhere.test/"}))
    with pytest.raises(ServerError, match="elsewhere"):
        await client.execute(QUERY)
    assert len(end.seen) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1]", b"3"])
async def test_something_else_than_a_control_plane(
    client: ControlPlaneClient, end: FarEnd, body: bytes
) -> None:
    end.then(reply(200, body))
    with pytest.raises(ServerError) as caught:
        await client.execute(QUERY)
    assert "control plane" in (caught.value.hint or "")


async def test_an_answer_without_data_is_empty(client: ControlPlaneClient, end: FarEnd) -> None:
    end.then(reply(200, {"data": None}))
    assert await client.execute(QUERY) == {}


@pytest.mark.parametrize(
    "url", ["", "localhost:8450", "ftp://x", "http://", "http://user:secret@host"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ControlPlaneClient(Endpoint(url))
    assert "secret" not in str(caught.value)


def test_the_key_is_never_shown() -> None:
    assert "secret" not in repr(Endpoint("http://x", "secret"))


async def test_a_ca_bundle_that_is_none_is_named(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        async with ControlPlaneClient(Endpoint("https://plane.test", None, bundle)):
            pass
    async with ControlPlaneClient(Endpoint("https://plane.test")):
        pass


async def test_outside_its_context_it_refuses(end: FarEnd) -> None:
    client = ControlPlaneClient(Endpoint(end.url))
    with pytest.raises(RuntimeError, match="async with"):
        await client.execute(QUERY)
    await client.close()


def test_foreign_exceptions_have_no_rule() -> None:
    with pytest.raises(KeyError):
        rule_for(ValueError())
    assert rule_for(aiohttp.InvalidURL("x")).retry is Retry.NEVER
    assert rule_for(TimeoutError()).retry is Retry.IF_IDEMPOTENT
