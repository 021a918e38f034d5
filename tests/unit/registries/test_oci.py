"""Existence checks: every kind of login, and every way that a registry refuses."""

import hashlib

import pytest
from aiohttp import web

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.registry import Credentials
from agent.registries.oci import OciRegistry
from tests.unit.registries.fake_registry import DIGEST, serving


class Login:
    """A login as it would come from anywhere."""

    def __init__(self, username="me", word="secret", token=""):
        self.found = Credentials("r", username, word, token)
        self.asked = []

    async def login(self, repository):
        self.asked.append(repository)
        return self.found


@pytest.fixture
async def fake():
    async with serving() as made:
        yield made


@pytest.fixture
async def registry():
    opened = []

    def make(*logins, **more):
        opened.append(OciRegistry(logins, {}, **more))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()
        await each.close()


async def refused(made, reference):
    with pytest.raises(JobError) as caught:
        await made.exists(reference)
    return caught.value


async def test_a_token_is_fetched_for_the_login_and_used(fake, registry):
    login = Login()
    made = registry(login)
    assert await made.exists(f"{fake.address}/team/app:1") == DIGEST
    query = {"service": "reg.example", "scope": "repository:team/app:pull"}
    assert fake.token_requests == [("GET", query, {})]
    assert [given for _, _, given in fake.asked] == [None, "Bearer a-short-lived-token"]
    assert login.asked == [f"{fake.address}/team/app"]


async def test_an_identity_token_is_exchanged_by_form(fake, registry):
    made = registry(Login("", "", "long-lived"))
    assert await made.exists(f"{fake.address}/team/app:1") == DIGEST
    method, query, form = fake.token_requests[0]
    assert (method, query) == ("POST", {})
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "long-lived")


async def test_basic_login_goes_with_the_request(fake, registry):
    fake.scheme = "Basic"
    assert await registry(Login()).exists(f"{fake.address}/team/app:1") == DIGEST
    assert fake.token_requests == []


async def test_an_open_registry_is_not_told_the_login(fake, registry):
    fake.users = {}
    login = Login()
    assert await registry(login).exists(f"{fake.address}/team/app:1") == DIGEST
    assert login.asked == []
    assert [given for _, _, given in fake.asked] == [None]


async def test_what_is_not_there_has_no_digest(fake, registry):
    assert await registry(Login()).exists(f"{fake.address}/team/app:2") is None
    assert await registry(Login()).exists(f"{fake.address}/other/app:1") is None


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
async def test_a_wrong_password_is_told(fake, registry, scheme):
    fake.scheme = scheme
    error = await refused(registry(Login(word="c4n4ry")), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_AUTH
    assert f"'{fake.address}/team/app' refuses the agent's login" in error.message
    assert "c4n4ry" not in str(error)


async def test_no_login_is_told(fake, registry):
    fake.scheme = "Basic"
    error = await refused(registry(), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_AUTH


async def test_a_forbidden_repository_is_told(fake, registry):
    fake.status = 403
    error = await refused(registry(Login()), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_AUTH


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        lambda: web.Response(text="<html>"),
        lambda: web.json_response({"expires_in": 60}),
        lambda: web.json_response(["x"]),
    ],
)
async def test_a_token_server_that_gives_none_lets_nobody_in(fake, registry, answer):
    fake.token_answer = answer
    error = await refused(registry(Login()), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_AUTH


async def test_a_digest_that_is_not_named_is_computed(fake, registry):
    fake.names_digest = False
    fake.body = b"manifest" * 20_000
    wanted = f"sha256:{hashlib.sha256(fake.body).hexdigest()}"
    assert await registry(Login()).exists(f"{fake.address}/team/app:1") == wanted


async def test_a_manifest_without_end_is_not_read(fake, registry):
    fake.names_digest = False
    fake.body = b"x" * (4 * 1024**2 + 1)
    error = await refused(registry(Login()), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_UNAVAILABLE


async def test_a_registry_out_of_order_is_told(fake, registry):
    fake.status = 503
    error = await refused(registry(Login()), f"{fake.address}/team/app:1")
    assert error.cause is Cause.IMAGE_UNAVAILABLE
    assert "status 503" in error.message


async def test_a_registry_that_is_away_is_told(registry):
    error = await refused(registry(Login()), "127.0.0.1:1/team/app:1")
    assert error.cause is Cause.IMAGE_UNAVAILABLE
    assert "builder.destination" in str(error)


async def test_a_login_never_goes_to_a_server_without_tls(fake):
    """A registry behind TLS that names such a server is not followed."""
    from agent.registries.authorization import Challenge, fetch_token

    challenge = Challenge("bearer", f"http://{fake.address}/token", "s", "")
    login = Login().found
    async with OciRegistryScope() as session:
        far = "https://reg.example"
        assert await fetch_token(session, challenge, login, "team/app", far, {}) is None
        near = f"http://{fake.address}"
        assert await fetch_token(session, challenge, login, "team/app", near, {}) is not None
    assert [query["scope"] for _, query, _ in fake.token_requests] == ["repository:team/app:pull"]


class OciRegistryScope:
    """A session for one call."""

    async def __aenter__(self):
        import aiohttp

        self._session = aiohttp.ClientSession()
        return self._session

    async def __aexit__(self, *_):
        await self._session.close()


async def test_the_first_source_that_knows_a_login_counts(registry):
    class Nothing:
        async def login(self, repository):
            return None

    first, second = Login("first"), Login("second")
    found = await registry(Nothing(), first, second).credentials("reg.example/x")
    assert found.username == "first"
    assert second.asked == []
    assert await registry(Nothing()).credentials("reg.example/x") is None
