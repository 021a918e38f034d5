"""In-process publish/subscribe, so that long polls and pages need not poll the store.

A notification carries no data and may come without a change: subscribers read the store again.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

#: A run has ended, whose job is to be made.
RUN_JOBS: Final = "run-jobs"


def topic_queue(queue_id: str) -> str:
    """Items may be there to be claimed."""
    return f"queue:{queue_id}"


def topic_item(item_id: str) -> str:
    """Something about the item changed: phase, activity, facts."""
    return f"item:{item_id}"


def topic_log(item_id: str) -> str:
    """Bytes were stored, or the attempt ended."""
    return f"log:{item_id}"


def topic_agent(agent_id: str) -> str:
    """The agent was asked to shut down or to stop a job, or a newer session registered."""
    return f"agent:{agent_id}"


def topic_claim(agent_id: str) -> str:
    """Items were leased to the agent."""
    return f"claim:{agent_id}"


def topic_run(run_id: str) -> str:
    """Something about the run changed: fields, state, streams, files."""
    return f"run:{run_id}"


def topic_project(entity: str, project: str) -> str:
    """Something about a run of the project changed, or a run was deleted."""
    return f"project:{entity}/{project}"


def topic_entity(entity: str) -> str:
    """Anything that pages show of the entity, given by name, changed."""
    return f"entity:{entity}"


class Subscription:
    """Wakes its subscriber; notifications between two waits are kept, as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        #: Whether the subscriber waits now.
        self.waiting = False

    def notify(self) -> None:
        """End the wait under way, or else the next one."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a notification; false after that many seconds without one."""
        self.waiting = True
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self.waiting = False
        self._event.clear()
        return True


class Notifications:
    """Topics and their subscribers in this process; for one event loop."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}

    @contextmanager
    def subscribe(self, topics: Iterable[str]) -> Iterator[Subscription]:
        """Subscribe first, then read the store, then wait: no change is missed."""
        subscription, wanted = Subscription(), set(topics)
        for topic in wanted:
            self.add(topic, subscription)
        try:
            yield subscription
        finally:
            for topic in wanted:
                self.remove(topic, subscription)

    def add(self, topic: str, subscription: Subscription) -> None:
        """Subscribe until `remove`."""
        self._subscriptions.setdefault(topic, set()).add(subscription)

    def remove(self, topic: str, subscription: Subscription) -> None:
        """End what `add` began."""
        self._subscriptions[topic].remove(subscription)
        if not self._subscriptions[topic]:
            del self._subscriptions[topic]

    def publish(self, topics: Iterable[str]) -> None:
        """Notify all subscribers of the topics."""
        for topic in topics:
            for subscription in self._subscriptions.get(topic, ()):
                subscription.notify()
