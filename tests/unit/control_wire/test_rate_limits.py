"""Token buckets of requests."""

from agent.control.middleware.rate_limits import _MAX_BUCKETS, Buckets


def test_a_burst_passes_and_then_as_many_as_the_rate_allows() -> None:
    now = [0.0]
    buckets = Buckets(10, 5, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [None] * 5
    assert buckets.take("a") == 0.1
    now[0] += 0.05
    assert buckets.take("a") is not None
    now[0] += 1.0
    assert sum(buckets.take("a") is None for _ in range(20)) == 5


def test_buckets_do_not_know_each_other() -> None:
    buckets = Buckets(1, 2, clock=lambda: 0.0)
    assert [buckets.take("a") for _ in range(3)][:2] == [None, None]
    assert buckets.take("b") is None


def test_memory_is_bounded() -> None:
    buckets = Buckets(1, 1, clock=lambda: 0.0)
    for number in range(_MAX_BUCKETS + 100):
        buckets.take(str(number))
    assert len(buckets._buckets) == _MAX_BUCKETS
