"""Files fetched by URL: within the address policy, of bounded size."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.url_access import UrlAccess


@pytest.fixture
async def server():
    async def answer(request):
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if "to" in request.query:
            raise web.HTTPFound(request.query["to"])
        if request.path == "/large":
            return web.Response(body=b"x" * 1024 * 1024 * 2)
        return web.Response(body=b"six<2\n", status=404 if request.path == "/none" else 200)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as made:
        yield f"http://localhost:{made.port}"


def fetcher(threads, private_hosts):
    def resolver(host, port):
        return {"localhost": ["127.0.0.1"], "metadata.example": ["169.254.169.254"]}[host]

    return UrlAccess(AddressPolicy(private_hosts, False, resolver), threads)


async def test_a_file_is_fetched_from_the_checked_address(server, threads):
    made = fetcher(threads, ("localhost",))
    assert await made.fetch(f"{server}/pins.txt") == b"six<2\n"
    assert await made.fetch(f"{server}/a?to=/pins.txt") == b"six<2\n"


@pytest.mark.parametrize("path", ["/pins.txt", "/a?to=http://metadata.example/"])
async def test_an_address_that_is_not_allowed_is_refused_with_the_cure(server, threads, path):
    allowed = ("localhost",) if "to" in path else ()
    with pytest.raises(PolicyError, match="not allowed") as caught:
        await fetcher(threads, allowed).fetch(server + path)
    assert caught.value.hint == "Copy the file into the source, and include the copy."


@pytest.mark.parametrize(
    ("path", "words"), [("/none", "status 404"), ("/large", "larger than 1 MiB"), ("/loop", "302")]
)
async def test_what_cannot_be_fetched_is_named(server, threads, path, words):
    with pytest.raises(JobError, match=words) as caught:
        await fetcher(threads, ("localhost",)).fetch(server + path)
    assert caught.value.cause is Cause.SOURCE_UNREACHABLE


async def test_other_protocols_are_refused(server, threads):
    with pytest.raises(PolicyError, match="is none of HTTP"):
        await fetcher(threads, ("localhost",)).fetch(f"{server}/a?to=ftp://localhost/x")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8450/x.whl", "https://localhost/x", "git+http://127.0.0.1/x.git",
        "git+ssh://git@127.0.0.1/x.git", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x",
        "http://[fec0::1]/", "http://169.254.169.254/latest", "http://2130706433/",
        "http://0x7f.1/x", "http://0177.0.0.1/", "http://0.0.0.0/", "http://[64:ff9b::7f00:1]/",
        "git+file:///etc", "file:///etc/passwd", "ftp://example.org/x", "git://example.org/x",
        "hg+http://127.0.0.1/", "http://public.example\\@127.0.0.1/", "http:///x", "http://$HOST/",
        "http://10.0.0.1/", "http://metadata.example/", "http://127.0.0.1./", "HTTP://127.0.0.1/",
    ],
)  # fmt: skip
async def test_a_requirement_s_url_is_checked(threads, url):
    def resolver(host, port):
        return {"metadata.example": ["169.254.169.254"], "localhost": ["127.0.0.1"]}.get(
            host, [host]
        )

    with pytest.raises(PolicyError):
        await UrlAccess(AddressPolicy((), False, resolver), threads).check(url)


async def test_a_configured_index_may_be_private(threads):
    policy = AddressPolicy((), False, lambda _host, _port: ["10.0.0.7"], (("index.corp", 443),))
    access = UrlAccess(policy, threads)
    await access.check("https://index.corp/simple")
    with pytest.raises(PolicyError):
        await access.check("http://index.corp:8450/simple")


async def test_the_proxy_holds_the_policy_for_programs(server, threads):
    """Also for redirects, which the program follows with a request of its own."""
    async with fetcher(threads, ()).proxy() as variables, aiohttp.ClientSession() as session:
        proxy = variables["HTTP_PROXY"]
        async with session.get(f"{server}/pins.txt", proxy=proxy) as answer:
            assert answer.status == 403
    async with (
        fetcher(threads, ("localhost",)).proxy() as variables,
        aiohttp.ClientSession() as session,
    ):
        proxy = variables["HTTP_PROXY"]
        async with session.get(f"{server}/pins.txt", proxy=proxy) as answer:
            assert await answer.text() == "six<2\n"
        redirect = f"{server}/a?to=http://metadata.example/"
        async with session.get(redirect, proxy=proxy) as answer:
            assert answer.status == 403
