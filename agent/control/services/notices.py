"""Wake-ups: who waits for something hears at once that it may have happened.

A notice carries no data and may come without a change, so whoever hears one looks again.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def topic_queue(queue_id: str) -> str:
    """Items may be there to be claimed."""
    return f"queue:{queue_id}"


def topic_item(item_id: str) -> str:
    """Something about the item changed: phase, activity, facts."""
    return f"item:{item_id}"


def topic_log(item_id: str) -> str:
    """Bytes were stored, or the attempt is over."""
    return f"log:{item_id}"


def topic_agent(agent_id: str) -> str:
    """The agent was asked to leave or to stop a job, or was taken over."""
    return f"agent:{agent_id}"


def topic_entity(entity: str) -> str:
    """Anything pages show of the entity changed; by the entity's name."""
    return f"entity:{entity}"


class Bell:
    """Rings when one of its topics is published; rings between two waits are kept, as one."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        #: Whether somebody is at the bell now.
        self.waiting = False

    def ring(self) -> None:
        """Let the next wait, or the one under way, end."""
        self._rung.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring; false after that many seconds without one."""
        self.waiting = True
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        finally:
            self.waiting = False
        self._rung.clear()
        return True


class Notices:
    """Topics and those who listen to them, in this process; of one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Bell]] = {}

    @contextmanager
    def listen(self, topics: Iterable[str]) -> Iterator[Bell]:
        """Hear of topics from now on: listen first, then look, then wait."""
        bell, wanted = Bell(), tuple(topics)
        for topic in wanted:
            self._listeners.setdefault(topic, set()).add(bell)
        try:
            yield bell
        finally:
            for topic in wanted:
                self._leave(topic, bell)

    def publish(self, topics: Iterable[str]) -> None:
        """Ring for topics."""
        for topic in topics:
            for bell in self._listeners.get(topic, ()):
                bell.ring()

    def _leave(self, topic: str, bell: Bell) -> None:
        bells = self._listeners.get(topic, set())
        bells.discard(bell)
        if not bells:
            self._listeners.pop(topic, None)
