"""Invocation: which units of work run in a crash probe first."""

import os
from contextlib import nullcontext
from typing import Any

import pytest

from towpath.servicekit.handling.invocation import Invocation, Poison
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.arrivals import SHELF, Anything, Arrival, a_request

LONG = 30.0


def crash(*_: Any) -> Outcome:
    os._exit(3)


HANDLERS = {**SHELF, "shelf.crash": Handler(Anything, crash)}


@pytest.fixture
def invocation() -> Invocation:
    return Invocation(nullcontext(), LONG, Telemetry("test", TelemetrySettings()))


@pytest.mark.parametrize("position", range(3))
async def test_one_redelivered_delivery_of_a_unit_is_enough_for_a_crash_probe(
    invocation: Invocation, position: int
) -> None:
    arrivals = [Arrival() for _ in range(3)]
    arrivals[position].redelivered = True
    unit = [
        a_request(HANDLERS, action if arrival.redelivered else "shelf.put", arrival=arrival)
        for arrival in arrivals
        for action in ("shelf.put", "shelf.crash")
    ]
    with pytest.raises(Poison) as found:
        await invocation.probe(unit, None)
    assert found.value.request is unit[2 * position + 1]


async def test_a_unit_of_first_deliveries_runs_without_a_crash_probe(invocation: Invocation) -> None:
    await invocation.probe([a_request(HANDLERS, "shelf.crash")], None)


async def test_a_suspect_action_runs_in_a_crash_probe_and_others_do_not(invocation: Invocation) -> None:
    unit = [a_request(HANDLERS, "shelf.put"), a_request(HANDLERS, "shelf.crash")]
    invocation.suspect("shelf.look")
    await invocation.probe(unit, None)
    invocation.suspect("shelf.crash")
    with pytest.raises(Poison):
        await invocation.probe(unit, None)
