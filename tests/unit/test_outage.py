"""What a web process remembers of a Redis that does not answer."""

import pytest

from imageserve.errors import RedisUnavailable
from imageserve.web.outage import OUTAGE_S, Outage


def test_those_who_come_right_after_a_failure_are_refused_and_later_ones_are_not() -> None:
    now = [100.0]
    outage = Outage(lambda: 1, lambda: now[0])
    outage.check()

    outage.begin()
    now[0] += OUTAGE_S - 0.001
    with pytest.raises(RedisUnavailable) as refused:
        outage.check()
    assert refused.value.retry_after_s

    now[0] += 0.001
    outage.check()


def test_a_new_connection_ends_it() -> None:
    connections = [1]
    outage = Outage(lambda: connections[0], lambda: 100.0)
    outage.begin()
    with pytest.raises(RedisUnavailable):
        outage.check()
    connections[0] += 1
    outage.check()
