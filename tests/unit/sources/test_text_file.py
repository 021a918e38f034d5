"""Files fetched by URL: within the address policy, of bounded size."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.text_file import TextFileFetcher


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

    return TextFileFetcher(AddressPolicy(private_hosts, False, resolver), threads)


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
    assert not caught.value.message.startswith("Git")


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
