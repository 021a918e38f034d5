"""Faults at random instants, drawn from a seed."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from tests.faults.campaign.members import Place

#: How many starts go to their end before the next fault. Were it none, a machine on which a start
#: takes longer than the pause between faults would make no progress.
_SPARED = 0.75


class Storm:
    """Kills, freezes and cuts members until told to end; then all are alive again."""

    def __init__(self, places: Sequence[Place], chance: random.Random, interval: float) -> None:
        self._places = places
        self._chance = chance
        self._interval = interval
        self._busy: set[str] = set()
        self._over = asyncio.Event()
        #: How often what happened to whom.
        self.counts: Counter[str] = Counter()

    def end(self) -> None:
        """No further fault; whoever is dead or frozen comes back at once."""
        self._over.set()

    async def run(self) -> None:
        """One fault after the other; several may be going on."""
        async with asyncio.TaskGroup() as going_on:
            while not await self._pause(self._chance.expovariate(1 / self._interval)):
                weights = [place.weight for place in self._places]
                place = self._chance.choices(self._places, weights)[0]
                freezes = self._chance.random() < 0.4 and place.longest_freeze > 0
                length = self._chance.random() ** 2
                if place.member.name not in self._busy:
                    self._busy.add(place.member.name)
                    going_on.create_task(self._strike(place, length, freezes=freezes))

    async def _strike(self, place: Place, length: float, *, freezes: bool) -> None:
        member = place.member
        try:
            if freezes:
                self.counts[f"{member.name} frozen"] += 1
                member.send(signal.SIGSTOP)
                await self._pause(length * place.longest_freeze)
                member.send(signal.SIGCONT)
            else:
                self.counts[f"{member.name} killed"] += 1
                await member.kill()
                await self._pause(length * place.longest_death)
                await member.start()
                if place.at_work is not None and self._chance.random() < _SPARED:
                    await place.at_work()
        finally:
            self._busy.discard(member.name)

    async def _pause(self, seconds: float) -> bool:
        """Whether the end came meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()
