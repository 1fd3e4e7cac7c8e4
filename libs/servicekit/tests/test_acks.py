"""Acks: a delivery is acked once, when the last of its requests is finished."""

from typing import cast

from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.acks import Acks
from towpath.testkit.arrivals import Arrival


def test_a_delivery_is_acked_with_the_last_of_its_requests() -> None:
    acks, arrivals = Acks(), [Arrival(), Arrival()]
    deliveries = [cast("Delivery", arrival) for arrival in arrivals]
    acks.hold(deliveries[0], 3)
    acks.hold(deliveries[1], 1)
    for _ in range(2):
        acks.release(deliveries[0])
    assert [arrival.acks for arrival in arrivals] == [0, 0]
    acks.release(deliveries[1])
    acks.release(deliveries[0])
    assert [arrival.acks for arrival in arrivals] == [1, 1]


def test_a_delivery_without_requests_is_acked_at_once() -> None:
    acks, arrival = Acks(), Arrival()
    acks.hold(cast("Delivery", arrival), 0)
    assert arrival.acks == 1
