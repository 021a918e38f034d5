"""Blobs: streamed, and taken up again where they broke."""

import hashlib

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.remote.blobs import RemoteBlobs
from agent.remote.client import GraphQLClient
from tests.unit.remote.far_end import FarEnd, cut, pieces, reply

DIGEST = "sha256:" + hashlib.sha256(b"hello").hexdigest()


async def _no_sleep(_: float) -> None:
    return


async def _all(blobs: RemoteBlobs) -> bytes:
    return b"".join([piece async for piece in blobs.read_blob("me", DIGEST)])


async def test_a_cut_download_goes_on_where_it_broke(client: GraphQLClient, end: FarEnd) -> None:
    end.then(pieces(b"he", b"l", cut=True), cut, pieces(b"hel", b"lo"))
    assert await _all(RemoteBlobs(client, sleep=_no_sleep)) == b"hello"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (reply(404), Cause.SOURCE_NOT_FOUND),
        (reply(403), Cause.SOURCE_UNREACHABLE),
        (cut, Cause.SOURCE_UNREACHABLE),
    ],
)
async def test_a_blob_that_cannot_be_read_is_the_jobs_cause(
    client: GraphQLClient, end: FarEnd, answer: object, cause: Cause
) -> None:
    end.then(answer)
    with pytest.raises(JobError) as caught:
        await _all(RemoteBlobs(client, sleep=_no_sleep))
    assert caught.value.cause is cause
