"""Wake-ups."""

import asyncio

from agent.control.services.notices import Notices


async def test_a_ring_between_two_waits_is_kept_as_one() -> None:
    notices = Notices()
    with notices.listen(["a", "b"]) as bell:
        notices.publish(["a", "b"])
        notices.publish(["a"])
        assert await bell.wait(0)
        assert not await bell.wait(0)


async def test_whoever_waits_is_woken_and_others_are_not() -> None:
    notices = Notices()
    with notices.listen(["a"]) as mine, notices.listen(["b"]) as other:
        waiting = asyncio.create_task(mine.wait())
        await asyncio.sleep(0)
        assert mine.waiting
        notices.publish(["a", "unknown"])
        assert await waiting
        assert not mine.waiting
        assert not await other.wait(0)


async def test_nobody_listens_any_more_afterwards() -> None:
    notices = Notices()
    with notices.listen(["a", "a"]), notices.listen(["a"]):
        assert len(notices._listeners) == 1
    assert notices._listeners == {}
    notices.publish(["a"])
