"""Wake-ups: who waits for something hears at once that it may have happened.

A notice carries no data and may come without a change, so whoever hears one looks again.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
import asyncio


def topic_queue(queue_id: str) -> str:
    """Items may be there to be claimed."""
    return f"queue:{queue_id}"


def topic_item(item_id: str) -> str:
    """Something about the item changed: phase, activity, facts."""
    return f"item:{item_id}"


def topic_log(item_id: str) -> str:
    """Bytes were stored, or the attempt is over."""
    return f"log:{item_id}"


def topic_entity(entity: str) -> str:
    """Anything pages show of the entity changed; by the entity's name."""
    return f"entity:{entity}"


class Bell:
    """Rings when one of its topics is published; rings between two waits are kept, as one."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring; false after `timeout` seconds without one."""
        raise NotImplementedError


class Notices:
    """Topics and those who listen to them, in this process."""

    @contextmanager
    def listen(self, topics: Iterable[str]) -> Iterator[Bell]:
        """Hear of topics from now on: listen first, then look, then wait."""
        raise NotImplementedError

    def publish(self, topics: Iterable[str]) -> None:
        """Ring for topics."""
        raise NotImplementedError
