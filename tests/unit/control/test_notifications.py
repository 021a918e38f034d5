"""Wake-ups."""

import asyncio

from agent.control.services.notifications import Notifications


async def test_notifications_between_two_waits_are_kept_as_one() -> None:
    notifications = Notifications()
    with notifications.subscribe(["a", "b"]) as subscription:
        notifications.publish(["a", "b"])
        notifications.publish(["a"])
        assert await subscription.wait(0)
        assert not await subscription.wait(0)


async def test_only_subscribers_of_the_topic_are_woken() -> None:
    notifications = Notifications()
    with notifications.subscribe(["a"]) as mine, notifications.subscribe(["b"]) as other:
        waiting = asyncio.create_task(mine.wait())
        await asyncio.sleep(0)
        assert mine.waiting
        notifications.publish(["a", "unknown"])
        assert await waiting
        assert not mine.waiting
        assert not await other.wait(0)


async def test_a_closed_subscription_is_removed() -> None:
    notifications = Notifications()
    with notifications.subscribe(["a", "a"]), notifications.subscribe(["a"]):
        assert len(notifications._subscriptions) == 1
    assert notifications._subscriptions == {}
    notifications.publish(["a"])
