"""Failed tries by address."""

from agent.control.auth.throttle import Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_thousand_tries_are_too_many():
    throttle = Throttle(Clock())
    answers = [throttle.failed("192.0.2.1") for _ in range(1000)]
    assert answers[0] is None
    assert answers[-1] is not None
    assert answers[-1] >= 1


def test_addresses_are_counted_apart():
    throttle = Throttle(Clock())
    for _ in range(1000):
        throttle.failed("192.0.2.1")
    assert throttle.failed("192.0.2.2") is None


def test_time_heals():
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(1000):
        throttle.failed("192.0.2.1")
    clock.now = 3.0
    assert throttle.failed("192.0.2.1") is None
    assert throttle.failed("192.0.2.1") == 1


def test_memory_is_bounded():
    throttle = Throttle(Clock())
    for number in range(5000):
        throttle.failed(f"address {number}")
    assert len(throttle._buckets) == 4096
