"""Checks of users' values against users' schemas, made before the transaction that needs them.

A check may take some tenths of a second, and on PostgreSQL a transaction runs on the event
loop. So a transaction only asks whether a check was made; if not, it is rolled back, the checks
are made in a thread, and the transaction runs again.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from agent.model.errors import ConflictError, InvalidInputError
from agent.model.json_schema import UnusableSchemaError, shared_steps, violations

T = TypeVar("T")

#: Queue or job would have to change in the middle of each.
_ROUNDS: Final = 5
#: Characters of a value that a message quotes.
_QUOTED: Final = 200
#: Checks at a time: threads of Python share one core with the event loop.
_AT_A_TIME: Final = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One value and the schema that it must satisfy."""

    #: What the value is, and its name in messages.
    noun: str
    path: str
    #: The schema's name in messages, and what to do when it cannot be used.
    schema_name: str
    schema_hint: str
    schema: Any = field(compare=False)
    value: Any = field(compare=False)
    #: The JSON Schema that it stands for.
    convert: Callable[[Any], Any] = field(compare=False, default=lambda schema: schema)
    #: Of schema and value, in which 1 and `true` differ.
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.schema, self.value])
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).digest())

    def run(self) -> None:
        """Make the check; may take some tenths of a second.

        Raises:
            InvalidInputError: names path, value and rule; or a schema that cannot be used.
        """
        try:
            found = violations(self.convert(self.schema), self.value)
        except UnusableSchemaError as error:
            message = f"{self.schema_name} cannot be used: {error.message}"
            raise InvalidInputError(message, hint=error.hint or self.schema_hint) from None
        for violation in found:
            where = ".".join([self.path, *map(str, violation.path)])
            rule = f"{violation.keyword}: {quoted(violation.rule)}"
            message = f"{self.noun}`{where}`: {quoted(violation.value)} breaks the rule `{rule}`."
            hint = f"{self.schema_name} says {quoted(self.schema)}."
            raise InvalidInputError(message, hint=hint)


def quoted(value: Any) -> str:
    """A JSON value as messages show it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


class NotCheckedError(Exception):
    """A transaction needs checks that were not made; it is rolled back."""

    def __init__(self, checks: tuple[Check, ...]) -> None:
        super().__init__()
        self.checks = checks


@dataclass(frozen=True, slots=True)
class Passed:
    """The checks that were made and found nothing."""

    checks: frozenset[Check] = frozenset()

    def require(self, checks: Iterable[Check]) -> None:
        """Say which checks the transaction needs.

        Raises:
            NotCheckedError: some of them were not made yet.
        """
        missing = tuple(check for check in checks if check not in self.checks)
        if missing:
            raise NotCheckedError(missing)


class Checker:
    """Makes checks in threads, a few at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_A_TIME)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of work that uses `agent.model.json_schema`."""
        async with self._turn:
            return await asyncio.to_thread(work)

    async def before(self, transaction: Callable[[Passed], Awaitable[T]]) -> T:
        """The result of a transaction that needs checks.

        Raises:
            InvalidInputError: of a check.
            ConflictError: queue or job were changed again and again meanwhile.
        """
        passed = Passed()
        for _ in range(_ROUNDS):
            try:
                return await transaction(passed)
            except NotCheckedError as needed:
                checks = needed.checks
            await self.run(lambda checks=checks: _run_all(checks))  # type: ignore[misc]
            passed = Passed(passed.checks | set(checks))
        message = "The queue or the job was changed while the submission was checked."
        raise ConflictError(message, hint="Submit it again.")


def _run_all(checks: tuple[Check, ...]) -> None:
    with shared_steps():
        for check in checks:
            check.run()
