"""Tasks raced against each other: one result, and nothing left running."""

import asyncio

import pytest

from agent.system.tasks import race


async def for_ever(ended: list[str]) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")
    return "never"


async def at_once() -> str:
    return "done"


async def test_the_work_that_ends_first_is_the_result_and_the_others_end() -> None:
    others = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(2)]
    assert await race(at_once(), *others) == "done"
    assert all(other.cancelled() for other in others)


async def test_another_that_ends_first_ends_the_work() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def alarm() -> None:
        await begun.wait()

    async def work() -> str:
        begun.set()
        return await for_ever(ended)

    assert await race(work(), alarm()) is None
    assert ended == ["ended"]


async def test_a_failure_of_the_work_is_the_callers() -> None:
    async def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await race(broken(), asyncio.Event().wait())
