"""A registry that wants tokens, and the server that gives them; both answer as they are told."""

import base64
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

DIGEST = "sha256:" + "e" * 64
TOKEN = "a-short-lived-token"


def basic(user, password):
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class FakeRegistry:
    """`tags` by name; `users` may enter, and nobody needs to where there are none."""

    def __init__(self):
        self.tags = {"team/app:1": DIGEST}
        self.users = {"me": "secret"}
        self.refresh = "long-lived"
        self.scheme = "Bearer"
        self.realm = None
        self.names_digest = True
        self.body = b'{"schemaVersion": 2}'
        self.status = None
        self.token_answer = None
        self.asked = []
        self.token_requests = []

    async def manifest(self, request):
        self.asked.append((request.method, request.path, request.headers.get("Authorization")))
        if self.status is not None:
            return web.Response(status=self.status)
        if not self._may_enter(request):
            return web.Response(status=401, headers={"WWW-Authenticate": self._challenge(request)})
        digest = self.tags.get(f"{request.match_info['name']}:{request.match_info['tag']}")
        if digest is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        headers = {"Docker-Content-Digest": digest} if self.names_digest else {}
        return web.Response(body=self.body, headers=headers)

    async def token(self, request):
        form = dict(await request.post()) if request.method == "POST" else {}
        self.token_requests.append((request.method, dict(request.query), form))
        if self.token_answer is not None:
            return self.token_answer()
        allowed = {basic(user, password) for user, password in self.users.items()}
        given = request.headers.get("Authorization")
        if given not in allowed and form.get("refresh_token") != self.refresh:
            return web.Response(status=401)
        return web.json_response({"access_token": TOKEN, "expires_in": 60})

    def _may_enter(self, request):
        given = request.headers.get("Authorization")
        if not self.users:
            return True
        if self.scheme == "Bearer":
            return given == f"Bearer {TOKEN}"
        return given in {basic(user, password) for user, password in self.users.items()}

    def _challenge(self, request):
        if self.scheme == "Basic":
            return 'Basic realm="here"'
        realm = self.realm or f"http://{request.host}/token"
        return f'Bearer realm="{realm}",service="reg.example",scope="repository:team/app:pull"'


@asynccontextmanager
async def serving():
    fake = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/v2/{name:.+}/manifests/{tag}", fake.manifest)
    app.router.add_route("*", "/token", fake.token)
    async with TestServer(app) as server:
        fake.address = f"127.0.0.1:{server.port}"
        yield fake
