"""Task groups that raise their first failure, and sessions that open at their first use."""

import asyncio
from collections.abc import Awaitable

import aiohttp
import pytest

from agent.system.lazy_session import LazySession
from agent.system.tasks import task_group


async def broken() -> None:
    raise ValueError("first")


async def for_ever(others: list[asyncio.Task[bool]], work: Awaitable[None]) -> None:
    """Do the work beside a task that never ends."""
    async with task_group() as group:
        others.append(group.create_task(asyncio.Event().wait()))
        await work


async def test_the_first_failure_is_raised_as_it_is_and_ends_the_others() -> None:
    others: list[asyncio.Task[bool]] = []
    with pytest.raises(ValueError, match="first"):
        await for_ever(others, broken())
    assert others[0].cancelled()


async def test_one_that_fails_ends_the_others_and_the_caller() -> None:
    others: list[asyncio.Task[bool]] = []

    async def begin() -> None:
        async with task_group() as group:
            group.create_task(broken())
            await for_ever(others, asyncio.sleep(0))

    with pytest.raises(ValueError, match="first"):
        await begin()
    assert others[0].cancelled()


async def test_a_session_opens_once_and_anew_after_it_was_closed() -> None:
    made: list[aiohttp.ClientSession] = []

    def make() -> aiohttp.ClientSession:
        made.append(aiohttp.ClientSession())
        return made[-1]

    connections = LazySession(make)
    await connections.close()
    assert connections.session is connections.session
    await connections.close()
    await connections.close()
    assert made[0].closed
    assert connections.session is made[1]
    await connections.close()
