"""The forward-only view that stands between `tarfile` and a stream nobody vouches for."""

import io

import pytest

from agent.sources.forward import ForwardReader, LimitError


def reader(data=b"0123456789", limit=1000):
    return ForwardReader(io.BytesIO(data), limit)


def test_it_reads_in_order_and_tells_where_it_is():
    source = reader()
    assert source.readable()
    assert source.seekable()
    assert source.read(3) == b"012"
    assert source.tell() == 3
    assert source.read(100) == b"3456789"
    assert source.read(1) == b""


def test_one_step_back_gives_the_last_byte_again():
    source = reader()
    source.read(4)
    assert source.seek(3) == 3
    assert source.read(1) == b"3"
    assert source.read(2) == b"45"


def test_skipping_forward_reads_nothing_into_memory():
    source = reader(b"x" * 600_000 + b"end", 10**6)
    source.seek(600_000)
    assert source.read(3) == b"end"


def test_skipping_beyond_the_end_stops_there():
    source = reader()
    assert source.seek(50) == 10


@pytest.mark.parametrize(("offset", "whence"), [(1, io.SEEK_SET), (0, io.SEEK_END)])
def test_going_back_further_is_refused(offset, whence):
    source = reader()
    source.read(5)
    with pytest.raises(LimitError):
        source.seek(offset, whence)


@pytest.mark.parametrize("size", [-1, 1024 * 1024 + 1])
def test_reading_very_much_at_once_is_refused(size):
    with pytest.raises(LimitError):
        reader().read(size)


def test_more_than_allowed_in_all_is_refused():
    with pytest.raises(LimitError):
        reader(b"x" * 20, 10).read(20)
