"""Cloud logins: what the official libraries are asked, and what their refusals become.

The libraries are extras and need not be here; they stand as modules that answer as theirs do.
"""

import base64
import sys
from types import ModuleType, SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.registries.logins import acr_logins, ecr_logins, exchange, google_logins

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
GOOGLE = "europe-west1-docker.pkg.dev"
ACR = "launch.azurecr.io"


@pytest.fixture
def sources(threads):
    return {
        "aws": (ecr_logins(ECR, "eu-central-1", threads), ECR, "boto3"),
        "gcp": (google_logins(GOOGLE, threads), GOOGLE, "google-auth"),
        "azure": (acr_logins(ACR, threads), ACR, "azure-identity"),
    }


@pytest.fixture
def install(monkeypatch):
    """Put a library where `import` finds it; `None` in its place is one that is missing."""

    def put(name, **content):
        parent = ""
        for part in name.split("."):
            full = f"{parent}.{part}".lstrip(".")
            if full not in sys.modules or sys.modules[full] is None:
                module = ModuleType(full)
                module.__path__ = []
                monkeypatch.setitem(sys.modules, full, module)
            if parent:
                monkeypatch.setattr(sys.modules[parent], part, sys.modules[full], raising=False)
            parent = full
        for key, value in content.items():
            monkeypatch.setattr(sys.modules[name], key, value, raising=False)

    return put


class LibraryError(Exception):
    """What a library raises."""


@pytest.mark.parametrize("extra", ["aws", "gcp", "azure"])
async def test_a_missing_library_is_named_with_its_extra(sources, extra, monkeypatch):
    for name in ("boto3", "google", "google.auth", "azure", "azure.core.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    source, host, package = sources[extra]
    with pytest.raises(JobError) as caught:
        await source.login(f"{host}/x")
    assert caught.value.cause is Cause.IMAGE_AUTH
    assert f"`{package}`" in caught.value.message
    assert f"`launch-agent[{extra}]`" in str(caught.value)
    assert "docker login" in str(caught.value)


@pytest.mark.parametrize("extra", ["aws", "gcp", "azure"])
async def test_other_registries_are_left_to_others(sources, extra):
    assert await sources[extra][0].login("reg.example/x") is None


def amazon(install, answer):
    asked = []

    def client(service, region_name):
        def get_authorization_token(**given):
            asked.append((service, region_name, given))
            return answer()

        return SimpleNamespace(get_authorization_token=get_authorization_token)

    install("boto3", client=client)
    errors = {"BotoCoreError": LibraryError, "ClientError": LibraryError}
    install("botocore.exceptions", **errors)
    return asked


async def test_amazon_s_token_is_user_and_password(sources, install):
    token = base64.b64encode(b"AWS:long:password").decode()
    answer = {"authorizationData": [{"authorizationToken": token}]}
    asked = amazon(install, lambda: answer)
    found = await sources["aws"][0].login(f"{ECR}/team/launch")
    assert (found.server, found.username, found.password) == (ECR, "AWS", "long:password")
    assert asked == [("ecr", "eu-central-1", {"registryIds": ["123456789012"]})]


async def test_amazon_s_refusal_is_told(sources, install):
    def refuse():
        raise LibraryError("Unable to locate credentials")

    amazon(install, refuse)
    with pytest.raises(JobError, match="Amazon ECR gives the agent no login: Unable to locate"):
        await sources["aws"][0].login(f"{ECR}/x")
    amazon(install, lambda: {"authorizationData": [{"authorizationToken": "eA=="}]})
    with pytest.raises(JobError, match="holds no user and password"):
        await sources["aws"][0].login(f"{ECR}/x")


def google(install, refresh):
    account = SimpleNamespace(token=None)
    account.refresh = lambda request: refresh(account)
    install("google.auth.exceptions", GoogleAuthError=LibraryError)
    install("google.auth.transport.requests", Request=object)
    install("google.auth", default=lambda scopes: (account, "project"))


async def test_google_s_access_token_is_a_password(sources, install):
    google(install, lambda account: setattr(account, "token", "ya29.x"))
    found = await sources["gcp"][0].login(f"{GOOGLE}/p/r/i")
    assert (found.server, found.username) == (GOOGLE, "oauth2accesstoken")
    assert found.password == "ya29.x"


async def test_google_s_refusal_is_told(sources, install):
    def refuse(account):
        raise LibraryError("no default credentials")

    google(install, refuse)
    with pytest.raises(JobError, match="no default credentials") as caught:
        await sources["gcp"][0].login(f"{GOOGLE}/p/r/i")
    assert caught.value.cause is Cause.IMAGE_AUTH


async def test_azure_s_refusal_is_told(sources, install):
    class Credential:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def get_token(self, scope):
            raise LibraryError(f"no identity for {scope}")

    install("azure.core.exceptions", AzureError=LibraryError)
    install("azure.identity", DefaultAzureCredential=Credential)
    with pytest.raises(JobError, match=r"no identity for https://containerregistry"):
        await sources["azure"][0].login(f"{ACR}/x")


async def exchanged(answer):
    forms = []

    async def handle(request):
        forms.append(dict(await request.post()))
        return answer()

    app = web.Application()
    app.router.add_post("/oauth2/exchange", handle)
    async with TestServer(app) as server:
        return await exchange(f"http://127.0.0.1:{server.port}", ACR, "directory-token"), forms


async def test_a_page_of_words_is_cut_and_holds_no_secret(sources, install):
    def refuse(account):
        raise LibraryError("line\n" * 500 + "https://me:c4n4ry@proxy/")

    google(install, refuse)
    with pytest.raises(JobError) as caught:
        await sources["gcp"][0].login(f"{GOOGLE}/p/r/i")
    assert len(caught.value.message) < 500
    assert "\n" not in caught.value.message
    assert "c4n4ry" not in caught.value.message


async def test_azure_s_registry_exchanges_the_directory_s_token():
    found, forms = await exchanged(lambda: web.json_response({"refresh_token": "refresh"}))
    assert (found.server, found.password) == (ACR, "refresh")
    assert set(found.username) == {"0", "-"}
    given = {"grant_type": "access_token", "service": ACR, "access_token": "directory-token"}
    assert forms == [given]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: web.Response(status=401), "401 Unauthorized"),
        (lambda: web.json_response({}), "holds no token"),
        (lambda: web.json_response([]), "holds no token"),
        (lambda: web.Response(text="<html>"), "gives the agent no login"),
    ],
)
async def test_an_exchange_that_fails_is_told(answer, words):
    with pytest.raises(JobError, match=words) as caught:
        await exchanged(answer)
    assert "directory-token" not in str(caught.value)


async def test_azure_s_registry_away_is_told():
    with pytest.raises(JobError, match="gives the agent no login"):
        await exchange("http://127.0.0.1:1", ACR, "t")
