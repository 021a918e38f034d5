"""A control plane, and browser sessions of its users."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.integration.pages.scene import Person, Scene, open_scene

SignIn = Callable[[Person], Awaitable[aiohttp.ClientSession]]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


@pytest.fixture
async def sign_in(scene: Scene) -> AsyncIterator[SignIn]:
    """A browser without scripts that signed in with a person's key."""
    async with AsyncExitStack() as stack:

        async def signed_in(person: Person) -> aiohttp.ClientSession:
            session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    scene.url,
                    cookie_jar=aiohttp.CookieJar(unsafe=True),
                    headers={"Origin": scene.url},
                )
            )
            async with session.post("/login", data={"key": person.key}) as answer:
                assert answer.status == 200
                assert answer.url.path == "/launch"
            return session

        yield signed_in
