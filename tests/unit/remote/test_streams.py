"""Blobs and logs: streamed, and taken up again where they broke."""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.model.cause import Cause
from agent.model.errors import JobError, NotFoundError, UnreachableError
from agent.remote.blobs import RemoteBlobs
from agent.remote.client import Endpoint, GraphQLClient
from agent.remote.logs import follow_log, read_log
from tests.unit.remote.far_end import FarEnd, cut, far_end, pieces, reply

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


async def test_a_page_of_a_log(client: GraphQLClient, end: FarEnd) -> None:
    end.then(reply(200, b"abc", {"Launch-Log-End": "9", "Launch-Log-Complete": "true"}))
    page = await read_log(client, "item", 1, "job", 6, 3)
    assert (page.data, page.end, page.complete) == (b"abc", 9, True)
    assert end.seen[0][1].endswith("/logs/job?offset=6&limit=3")


@given(
    parts=st.lists(st.binary(min_size=1, max_size=50), max_size=6),
    breaks=st.lists(st.integers(0, 6), max_size=4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_a_follower_gets_every_byte_once(parts: list[bytes], breaks: list[int]) -> None:
    whole = b"".join(parts)
    async with far_end() as end, GraphQLClient(Endpoint(end.url)) as client:

        async def answer(request: object) -> object:
            offset = int(request.query["offset"])
            rest = whole[offset:]
            if breaks:
                return await pieces(rest[: breaks.pop()], cut=True)(request)
            return await pieces(rest)(request)

        end.then(answer)
        got = [piece async for piece in follow_log(client, "i", 1, "job", sleep=_no_sleep)]
    assert b"".join(got) == whole


async def test_a_follower_gives_up_where_nothing_moves(client: GraphQLClient, end: FarEnd) -> None:
    end.then(cut)
    with pytest.raises(UnreachableError):
        async for _ in follow_log(client, "i", 1, "job", patience=2, sleep=_no_sleep):
            pass
    # aiohttp itself opens a second connection for a GET whose first one broke.
    assert len(end.seen) >= 3


async def test_a_log_of_nobody(client: GraphQLClient, end: FarEnd) -> None:
    end.then(reply(404, {"errors": [{"message": "No item «i»."}]}))
    with pytest.raises(NotFoundError, match="No item"):
        async for _ in follow_log(client, "i", 1, "job", sleep=_no_sleep):
            pass
