"""Handlers that cannot work are refused when their service starts."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from towpath.protocol.routes import SESSION_STARTED
from towpath.protocol.sessions import SessionStarted
from towpath.servicekit.handling.checks import BadService, check_handlers, check_session_started_handler
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler


class Put(BaseModel):
    text: str


def right(_: Put, __: object, ___: object) -> Outcome:
    return Outcome()


async def asynchronous(_: Put, __: object, ___: object) -> Outcome:
    return Outcome()


class AsynchronousCall:
    async def __call__(self, _: Put, __: object, ___: object) -> Outcome:
        return Outcome()


def too_few(_: Put) -> Outcome:
    return Outcome()


def too_many(_: Put, __: object, ___: object, ____: object) -> Outcome:
    return Outcome()


def named_only(*, payload: Put, session: object, unit: object) -> Outcome:
    return Outcome()


def wrong_type(_: Put, __: object, ___: object) -> dict[str, str]:
    return {}


@pytest.mark.parametrize(
    ("run", "model", "said"),
    [
        (asynchronous, Put, "is async"),
        (AsynchronousCall(), Put, "is async"),
        (partial(asynchronous), Put, "is async"),
        (too_few, Put, "does not take the arguments (payload, session, unit)"),
        (too_many, Put, "does not take the arguments"),
        (named_only, Put, "does not take the arguments"),
        (wrong_type, Put, "it must return an Outcome"),
        ("shelf.put", Put, "cannot be called"),
        (right, dict, "not a pydantic model"),
    ],
)
def test_a_handler_that_cannot_work_is_refused_at_the_start(run: Any, model: Any, said: str) -> None:
    with pytest.raises(BadService) as refused:
        check_handlers("shelf", {"shelf.put": Handler(model, run)}, arguments=("payload", "session", "unit"))
    assert said in str(refused.value)
    assert "'shelf.put'" in str(refused.value)


def test_handlers_that_can_work_are_accepted() -> None:
    for run in (right, partial(right), lambda _, __, ___: Outcome()):
        check_handlers("shelf", {"shelf.put": Handler(Put, run)}, arguments=("payload", "session", "unit"))


def test_a_service_with_groups_must_answer_each_new_connection_with_them() -> None:
    started = Handler(SessionStarted, lambda event, unit: Outcome(), changes=False)
    for events in ({}, {SESSION_STARTED: started}):
        with pytest.raises(
            BadService, match=r"keeps groups, and has no handler of 'session.started' with groups"
        ):
            check_session_started_handler("shop", events)
    check_session_started_handler("shop", {SESSION_STARTED: replace(started, groups=True)})


def test_a_handler_that_changes_state_may_not_list_the_groups_of_a_connection() -> None:
    with pytest.raises(BadService, match="split it"):
        check_handlers("shop", {"shop.put": Handler(Put, right, groups=True)}, arguments=("p", "s", "u"))
