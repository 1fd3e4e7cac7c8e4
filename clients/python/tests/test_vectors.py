"""The session does what clients in every language do: the shared vectors, one test each."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from towpath.client import events
from towpath.client.actions import Action, Send
from towpath.client.envelope import Envelope
from towpath.client.errors import TowpathError
from towpath.client.session import Session

VECTORS = Path(__file__).parents[3] / "libs/protocol/vectors"
#: Those of now, and those that stood beside the contract's first text.
TEXTS = (VECTORS / "session", VECTORS / "first_text/session")
#: The clock of every vector starts here, Unix milliseconds.
EPOCH_MS = 1_000_000

Vector = dict[str, Any]


def the_vectors() -> Iterator[Any]:
    for folder in TEXTS:
        givens = json.loads((folder / "givens.json").read_text())
        text = "" if folder == TEXTS[0] else "first text, "
        for path in sorted(folder.glob("*.json")):
            if path.name != "givens.json":
                for vector in json.loads(path.read_text())["vectors"]:
                    given = givens[vector["given"]] if "given" in vector else []
                    yield pytest.param(vector, given, id=f"{text}{path.stem}: {vector['name']}")


@pytest.mark.parametrize(("vector", "given"), list(the_vectors()))
def test_the_session_keeps_the_promise(vector: Vector, given: list[dict[str, Any]]) -> None:
    session = Session(id_prefix="s", **{"urls": ["ws://one/ws"], **vector.get("options", {})})
    for event in given:
        session.handle(the_event(event), EPOCH_MS)
    now = 0
    for number, step in enumerate(vector["steps"], 1):
        now = step.get("at", now)
        put_out = session.handle(the_event(step["event"]), EPOCH_MS + now)
        wanted = step["actions"]
        seen = [as_vector(action, like) for action, like in zip(put_out, wanted, strict=False)]
        seen += [as_vector(action, {}) for action in put_out[len(wanted) :]]
        assert seen == wanted, f"step {number}"
        if "state" in step:
            assert session.state == step["state"], f"step {number}"
        if "positions" in step:
            assert session.positions == step["positions"], f"step {number}"


def test_there_are_vectors_for_every_event_and_every_action() -> None:
    steps = [step for param in the_vectors() for step in param.values[0]["steps"]]
    given = [event["type"] for param in the_vectors() for event in param.values[1]]
    assert {step["event"]["type"] for step in steps} | set(given) == EVENTS.keys()
    assert {action["do"] for step in steps for action in step["actions"]} == {
        snake(action.__name__) for action in Action.__args__
    }


def the_event(fields: dict[str, Any]) -> Any:
    """An event as a vector writes it."""
    fields = dict(fields)
    kind = EVENTS[fields.pop("type")]
    if "envelope" in fields:
        filled = {"msg_id": "srv", "timestamp": 0, "version": "1.0", **fields.pop("envelope")}
        fields["text"] = json.dumps(filled)
    if "error" in fields:
        fields["error"] = TowpathError(**fields["error"])
    return kind(**fields)


def as_vector(action: Action, like: dict[str, Any]) -> dict[str, Any]:
    """An action as a vector writes it, with the fields that stand in ``like``; all of them if it is another."""
    fields: dict[str, Any] = {field.name: getattr(action, field.name) for field in dataclasses.fields(action)}
    if isinstance(action, Send):
        fields = {"envelope": json.loads(action.text)}
    if isinstance(error := fields.get("error"), TowpathError):
        fields["error"] = dict(vars(error))
    name = snake(type(action).__name__)
    if name != like.get("do"):
        return {"do": name, **fields}
    for nested in ("envelope", "error"):
        if nested in like and nested in fields:
            fields[nested] = only(fields[nested], like[nested])
    return only({"do": name, **fields}, like)


def only(fields: dict[str, Any] | Envelope, like: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in like}


def snake(name: str) -> str:
    """``FetchToken`` → ``fetch_token``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


EVENTS = {snake(event.__name__): event for event in events.Event.__args__}
