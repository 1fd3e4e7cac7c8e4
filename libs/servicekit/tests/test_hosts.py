"""Which host is tried next, and when."""

import random
from collections import Counter

import pytest
from yarl import URL

from towpath.servicekit.broker.rabbitmq.hosts import Hosts

THREE = [URL(f"amqp://{name}") for name in ("one", "two", "three")]


def hosts(urls: list[URL] = THREE, *, seed: int = 0, reconnect_max: float = 30.0) -> Hosts:
    return Hosts(urls, reconnect_max, random.Random(seed))


def outage(one: Hosts, lasts: float) -> list[tuple[float, float]]:
    """When attempts are made in an outage of so many seconds, and how long the wait after each is."""
    now, waits = 0.0, []
    while now < lasts:
        wait = one.failed(one.next(), refused=False, outage=now)
        waits.append((now, wait))
        now += max(wait, 0.001)
    return waits


def test_hosts_are_tried_round_robin() -> None:
    one = hosts()
    tried = [one.next() for _ in range(6)]
    assert tried[:3] == tried[3:]
    assert set(tried) == set(THREE)


def test_programs_begin_with_different_hosts() -> None:
    begin = Counter(hosts(seed=seed).next() for seed in range(300))
    assert all(begin[url] > 60 for url in THREE)


def test_there_is_no_wait_within_a_round() -> None:
    one = hosts()
    waits = [one.failed(one.next(), refused=False, outage=0) for _ in range(6)]
    assert [wait > 0 for wait in waits] == [False, False, True, False, False, True]


@pytest.mark.parametrize("seed", range(20))
def test_within_a_minute_no_wait_is_longer_than_5_s(seed: int) -> None:
    waits = outage(hosts(THREE[:1], seed=seed), 60)
    assert max(wait for _, wait in waits) <= 5
    assert max(wait for began, wait in waits[:1]) <= 1


def test_the_longest_wait_grows_to_the_most_in_minutes() -> None:
    one = hosts()
    assert [one.longest_wait(99, outage) for outage in (0, 60, 120, 240, 360, 3600)] == [5, 5, 10, 20, 30, 30]
    assert hosts(reconnect_max=0.5).longest_wait(99, 3600) == 0.5


def test_programs_that_wait_together_reconnect_spread() -> None:
    waits = sorted(
        hosts(THREE[:1], seed=seed).failed(THREE[0], refused=False, outage=360) for seed in range(300)
    )
    assert waits[30] < 6
    assert waits[-30] > 24


def test_after_a_connection_waits_begin_short_again() -> None:
    one = hosts(THREE[:1])
    outage(one, 30)
    one.connected()
    assert one.failed(THREE[0], refused=False, outage=0) <= 1


def test_all_refuse_only_when_each_does_in_its_last_attempt() -> None:
    one = hosts()
    for url in THREE[:2]:
        one.failed(url, refused=True, outage=0)
    assert not one.all_refuse
    one.failed(THREE[0], refused=False, outage=0)
    one.failed(THREE[2], refused=True, outage=0)
    assert not one.all_refuse
    one.failed(THREE[0], refused=True, outage=0)
    assert one.all_refuse
