"""Sending one large file in parts, to the addresses that a server gave for them.

A part that fails is sent again alone. An address that has expired is asked for anew; what the
store holds of the same upload by then is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from agent.model.errors import ServerError
from agent.remote.artifacts import documents
from agent.remote.artifacts.reading import Content, Extent
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import GraphQLClient
from agent.remote.failures import AddressRefusedError
from agent.system.tasks import task_group

Json = dict[str, Any]

#: How often new addresses are asked for, for one file.
_RENEWALS: Final = 3
#: Seconds; the store puts the parts together before it answers.
_COMPLETE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Parted:
    """A file and its parts."""

    content: Content
    parts: tuple[Extent, ...]


@dataclass(slots=True)
class _Upload:
    """What is known of one upload of the store."""

    id: str
    #: Part number → the tag that the store gave for it.
    tags: dict[int, str] = field(default_factory=dict)


class PartUploads:
    """Over one client; `free` bounds how many requests are on their way at a time."""

    def __init__(
        self, client: GraphQLClient, transfers: Transfers, free: asyncio.Semaphore
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._free = free

    async def send(self, file: Parted, place: Json, renewed: Callable[[], Awaitable[Json]]) -> None:
        """Send a file to a place with `uploadMultipartUrls`; `renewed` asks for a new one.

        Raises:
            ServerError: the place does not fit the parts, or the store gave no tag.
            InvalidInputError, UnreachableError, LaunchError: as `Transfers.put`.
        """
        upload = _Upload("")
        for renewals_left in reversed(range(_RENEWALS + 1)):
            given = place["uploadMultipartUrls"]
            if given["uploadID"] != upload.id:
                upload = _Upload(given["uploadID"])
            refused = await self._send_missing(file, upload, place)
            if refused is None:
                await self._complete(file, place, upload)
                return
            if renewals_left == 0:
                raise refused
            place = await renewed()
            if place["uploadUrl"] is None:
                return
            if place.get("uploadMultipartUrls") is None:
                raise refused

    async def _send_missing(
        self, file: Parted, upload: _Upload, place: Json
    ) -> AddressRefusedError | None:
        """Send the parts that have no tag yet, until an address is refused."""
        addresses = _addresses(file, place["uploadMultipartUrls"])
        headers = place.get("uploadHeaders") or []
        refused: list[AddressRefusedError] = []

        async def one(number: int, part: Extent) -> None:
            async with self._free:
                if refused:
                    return
                try:
                    upload.tags[number] = await self._transfers.put_part(
                        file.content, part, addresses[number], headers
                    )
                except AddressRefusedError as error:
                    refused.append(error)

        missing = [pair for pair in enumerate(file.parts, start=1) if pair[0] not in upload.tags]
        async with task_group() as group:
            for number, part in missing:
                name = f"upload {file.content.path}, part {number}"
                group.create_task(one(number, part), name=name)
        return refused[0] if refused else None

    async def _complete(self, file: Parted, place: Json, upload: _Upload) -> None:
        given = {
            "completeMultipartAction": "Complete",
            "completedParts": [
                # The wire calls the store's tag an MD5, whatever the store makes it of.
                {"partNumber": number, "hexMD5": upload.tags[number]}
                for number in range(1, len(file.parts) + 1)
            ],
            "artifactID": place["artifact"]["id"],
            "storagePath": place["storagePath"],
            "uploadID": upload.id,
        }
        await self._client.execute(
            documents.COMPLETE_PARTS, {"input": given}, deadline=_COMPLETE, idempotent=True
        )


def _addresses(file: Parted, given: Json) -> dict[int, str]:
    addresses = {part["partNumber"]: part["uploadUrl"] for part in given["uploadUrlParts"]}
    if sorted(addresses) != list(range(1, len(file.parts) + 1)):
        message = (
            f"The server gave places for {len(addresses)} parts of '{file.content.path}', "
            f"which has {len(file.parts)}, or numbered them otherwise."
        )
        raise ServerError(message)
    return addresses
