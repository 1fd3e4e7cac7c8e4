"""Messages of a service are checked against its declarations wherever a test runs its dispatcher."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from towpath.protocol.envelope import make
from towpath.servicekit import Handler, Outcome, Service, to_user
from towpath.testkit.declared import Declared, Misfit, installed, misfit
from towpath.testkit.dispatching import ServiceUnderTest, a_command


class Ask(BaseModel):
    answer: dict[str, Any] = {}
    push: str = ""
    event: str = ""


class Place(BaseModel):
    row: int
    label: str | None = None


def ask(request: Ask, session: Any, _: None) -> Outcome:
    return Outcome(
        answer=request.answer,
        pushes=[to_user("ana", make(request.push, {"row": 1}))] if request.push else [],
        events=[make(request.event, {"row": 1})] if request.event else [],
    )


SILENT: Service[Any] = Service(
    name="shelves", domain="shelf", commands={"shelf.ask": Handler(Ask, ask, changes=False)}
)
DECLARED: Service[Any] = Service(
    name="shelves",
    domain="shelf",
    commands={"shelf.ask": Handler(Ask, ask, changes=False, answer=Place)},
    pushes={"shelf.moved": Place},
    events_out={"shelf.moved": Place, "order.confirmed": Place},
)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"answer": {"row": 1}}, ""),
        ({"answer": {"row": 1, "label": None}, "push": "shelf.moved", "event": "order.confirmed"}, ""),
        ({"answer": {"row": "one"}}, "shelf.ask.ok does not fit Place: row: Input should be a valid integer"),
        ({"answer": {}}, "shelf.ask.ok does not fit Place: row: Field required"),
        ({"answer": {"row": 1, "colour": "red"}}, "shelf.ask.ok has colour, which Place does not declare"),
        (
            {"answer": {"row": 1}, "push": "shelf.fell"},
            "shelf.fell is published and not declared: add it to pushes=",
        ),
        (
            {"answer": {"row": 1}, "event": "order.lost"},
            "order.lost is published and not declared: add it to events_out=",
        ),
    ],
)
async def test_a_message_that_does_not_fit_its_declaration_fails_the_test(
    tmp_path: Path, asked: dict[str, Any], problem: str
) -> None:
    async with ServiceUnderTest.running(DECLARED, f"sqlite+aiosqlite:///{tmp_path}/x.db") as shelves:
        if problem:
            with pytest.raises(Misfit, match=problem):
                await shelves.dispatch(a_command("shelf.ask", **asked))
        else:
            await shelves.dispatch(a_command("shelf.ask", **asked))


async def test_a_service_that_declares_nothing_is_not_checked(tmp_path: Path) -> None:
    async with ServiceUnderTest.running(SILENT, f"sqlite+aiosqlite:///{tmp_path}/x.db") as shelves:
        await shelves.dispatch(
            a_command("shelf.ask", answer={"any": "thing"}, push="shelf.fell", event="a.b")
        )
    assert len(shelves.heard) == 3


def test_fields_inside_lists_and_objects_are_checked() -> None:
    class Row(BaseModel):
        places: list[Place]
        named: dict[str, Place]

    good = {"places": [{"row": 1}], "named": {"a": {"row": 2}}}
    assert misfit("shelf.row", Row, good) == ""
    bad = {"places": [{"row": 1, "hue": 1}], "named": {"a": {"row": 2, "age": 1}}}
    assert (
        misfit("shelf.row", Row, bad) == "shelf.row has named.a.age, places.hue, which Row does not declare"
    )


def test_frames_of_gateways_and_of_installed_services_are_checked() -> None:
    declared = installed()
    assert declared.frame({"action": "session.resync", "data": {"reason": "x"}}) == ""
    assert "reason: Field required" in declared.frame({"action": "session.resync", "data": {}})
    wrong = {
        "action": "error",
        "data": {"code": "odd", "message": "", "retryable": False},
        "correlation_id": "m",
    }
    assert "error does not fit ErrorData: code" in declared.frame(wrong)
    assert declared.frame({"action": "chat.typing", "data": {"room": "r", "user": "ana"}}) == ""
    assert "chat.sang is published and not declared" in declared.frame({"action": "chat.sang", "data": {}})
    assert "chat.sang.ok is published and not declared" in declared.frame(
        {"action": "chat.sang.ok", "data": {}, "correlation_id": "m"}
    )
    assert declared.frame({"action": "strange.news", "data": {"any": 1}}) == ""
    assert Declared().event("strange.news", {}) == ""
