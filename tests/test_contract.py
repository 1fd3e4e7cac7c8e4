"""The generated contract is complete and true: documents, schemas, and what services publish without declaring it."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from pydantic import BaseModel

from towpath.protocol.gateway import CLOSES, ERRORS, PUSHES, REQUESTS
from towpath.protocol.routes import EXCHANGES
from towpath.servicekit import Handler, Outcome, Service
from towpath.servicekit.installed import installed_services
from towpath.tools.contract.declarations import undeclared_names, without_answer

ROOT: Final = Path(__file__).parents[1]
CONTRACT: Final = runpy.run_path(str(ROOT / "scripts/contract.py"))
REFERENCE: Final = ROOT / "docs/reference"
DOCUMENT: Final[dict[str, Any]] = json.loads((REFERENCE / "asyncapi.json").read_text())
SCHEMAS: Final[dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((REFERENCE / "schemas").glob("*.json"))
}
VECTORS: Final = sorted((ROOT / "libs/protocol/vectors").rglob("*.json"))


def test_the_documents_are_up_to_date() -> None:
    wanted = CONTRACT["render"]()
    paths = [REFERENCE / name for name in wanted] + sorted((REFERENCE / "schemas").iterdir())
    written = {str(path.relative_to(REFERENCE)): path.read_text() for path in paths if path.exists()}
    assert written == wanted, "run `make docs`"


@pytest.mark.parametrize("service", installed_services(), ids=lambda service: service.name)
def test_every_action_push_and_event_of_a_service_is_in_the_document(service: Any) -> None:
    definition, operations = service.definition(), DOCUMENT["operations"]
    for action in definition.commands:
        reply = operations[f"request.{action}"]["reply"]["messages"]
        names = [one["$ref"].rpartition("/")[2] for one in reply]
        assert names == [f"answer.{action}.ok", "answer.accepted", "answer.error"]
    for action in definition.pushes:
        assert operations[f"push.{action}"]["action"] == "send"
    for action in definition.events:
        assert operations[f"heard.{service.name}.{action}"]["action"] == "receive"
        assert DOCUMENT["channels"][f"event.{action}"]["address"] == action
    for action in definition.events_out:
        assert operations[f"published.{service.name}.{action}"]["action"] == "send"


def test_the_gateways_own_messages_codes_and_exchanges_are_in_the_document() -> None:
    socket = DOCUMENT["channels"]["websocket"]
    for action in REQUESTS:
        assert f"request.{action}" in socket["messages"]
    for action in PUSHES:
        assert f"push.{action}" in socket["messages"]
    assert [one["code"] for one in socket["x-close-codes"]] == [int(code) for code in CLOSES]
    assert {one["code"] for one in socket["x-error-codes"]} == {code.value for code in ERRORS}
    bound = [channel["bindings"].get("amqp") for channel in DOCUMENT["channels"].values()]
    assert {binding["exchange"]["name"] for binding in bound if binding} == {*EXCHANGES}
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert {
        "/ws", "{domain}.{partition}", "user.{user}", "group.{group}", "everyone", "connection.{gateway}",
        "control.{user}", "session.started", "session.ended", "session.alive", "revoke.user",
    } <= addresses  # fmt: skip


def references(value: Any) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


@pytest.mark.parametrize("document", [DOCUMENT, *SCHEMAS.values()], ids=["asyncapi", *SCHEMAS])
def test_every_reference_leads_to_a_definition(document: Any) -> None:
    for reference in references(document):
        found = document
        for word in reference.removeprefix("#/").split("/"):
            found = found[word]
        assert isinstance(found, dict)


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_valid_json_schema(name: str) -> None:
    jsonschema_rs.meta.validate(SCHEMAS[name])


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_each_schema_of_the_document_is_valid_json_schema_of_draft_7(name: str) -> None:
    # The dialect of AsyncAPI: https://www.asyncapi.com/docs/reference/specification/v3.0.0#schemaObject
    schema = DOCUMENT["components"]["schemas"][name]
    jsonschema_rs.meta.validate({"$schema": "http://json-schema.org/draft-07/schema#", **schema})


# Declarations


class Thing(BaseModel):
    name: str


def put(request: Thing, *_: Any) -> Outcome:
    return Outcome(answer={})


def test_a_handler_without_a_declared_answer_is_named_with_the_remedy() -> None:
    service: Service[Any] = Service(
        name="shelves",
        domain="shelf",
        commands={"shelf.put": Handler(Thing, put), "shelf.get": Handler(Thing, put, answer=Thing)},
    )
    (line,) = without_answer(service)
    assert line.startswith("shelves: shelf.put has no declared answer: write Handler(Thing, …, answer=Model)")


def test_a_name_that_is_published_without_a_declaration_is_found_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/0001.py").write_text('OLD = "shelf.lost"\n')
    (tmp_path / "handlers.py").write_text(
        '"""Pushes shelf.moved."""\n'
        'PUT, OK = "shelf.put", "shelf.put.ok"\n'
        'FULL = "shelf.full"\n'
        'make("shelf.fell", {})\n'
        'make("order.created", {})\n'
        'make("order.lost", {})\n'
        'open("shelf.py/x")\n'
    )
    service: Service[Any] = Service(
        name="shelves",
        domain="shelf",
        commands={"shelf.put": Handler(Thing, put, answer=Thing)},
        events={"order.created": Handler(Thing, put)},
        pushes={"shelf.full": Thing},
    )
    found = undeclared_names(service, tmp_path, {"shelf", "order"})
    assert [line.partition(" is not")[0] for line in found] == [
        "shelves: handlers.py:4: 'shelf.fell'",
        "shelves: handlers.py:6: 'order.lost'",
    ]
    assert "add it to pushes= or events_out= of its Service, with its model" in found[0]


def test_the_services_of_this_repository_declare_everything() -> None:
    assert CONTRACT["problems"]() == []


# Vectors


def domain_of(action: str) -> str:
    return "session" if action in ("ping", "pong", "error", "accepted") else action.partition(".")[0]


def schema_of(kind: str, action: str) -> dict[str, Any] | None:
    """The schema of one message's ``data``, with the definitions that it needs."""
    document = SCHEMAS.get(domain_of(action))
    if document is None or f"{kind}.{action}" not in document["$defs"]:
        return None
    return {"$ref": f"#/$defs/{kind}.{action}", "$defs": document["$defs"]}


def misfits_of_part(kind: str, action: str, data: dict[str, Any]) -> list[str]:
    """The problems of data that may lack fields, and has ``*`` for any value."""
    schema = schema_of(kind, action)
    if schema is None:
        return []
    _, _, name = schema["$defs"][f"{kind}.{action}"]["$ref"].rpartition("/")
    fields = schema["$defs"][name].get("properties", {})
    found = [f"{action} has {field}, which it does not declare" for field in data if field not in fields]
    for field, value in data.items():
        if field in fields and '"*"' not in json.dumps(value):
            part = {**fields[field], "$defs": schema["$defs"]}
            if isinstance(value, list):  # its elements are parts as well
                part = {"type": "array"}
            found += [
                f"{action} {field}: {error.message}" for error in jsonschema_rs.iter_errors(part, value)
            ]
    return found


def spoken(value: Any) -> Iterator[dict[str, Any]]:
    """Every envelope in a vector."""
    if isinstance(value, dict):
        if isinstance(value.get("action"), str) and isinstance(value.get("data"), dict):
            yield value
        for part in value.values():
            yield from spoken(part)
    elif isinstance(value, list):
        for part in value:
            yield from spoken(part)


@pytest.mark.parametrize(
    "path", [path for path in VECTORS if path.parent.name == "wire"], ids=lambda path: path.stem
)
def test_requests_answers_and_pushes_of_the_wire_vectors_fit_the_schemas(path: Path) -> None:
    checked = 0
    # "$" is for a number of the test that runs the vector.
    for vector in json.loads(path.read_text().replace("$", "1"))["vectors"]:
        for step in vector["steps"]:
            sent, answer = step.get("send"), step.get("answer", {})
            schema = schema_of("request", sent["action"]) if sent else None
            if schema is not None and answer.get("action") != "error":
                jsonschema_rs.validate(schema, sent.get("data", {}))
                checked += 1
            for kind, envelope in (("answer", answer), ("push", step.get("hears", {}))):
                if "action" in envelope and "data" in envelope:
                    assert misfits_of_part(kind, envelope["action"], envelope["data"]) == []
                    checked += 1
    assert checked > 3


@pytest.mark.parametrize(
    "path",
    # `nonsense` is about frames that no gateway sends; `givens` has events of the other files.
    [path for path in VECTORS if path.parent.name == "session" and path.stem not in ("nonsense", "givens")],
    ids=lambda path: f"{path.parts[-3]}/{path.stem}",
)
def test_frames_of_a_gateway_in_the_session_vectors_fit_the_schemas(path: Path) -> None:
    # One vector is about advice that no gateway gives.
    vectors = [one for one in json.loads(path.read_text())["vectors"] if "makes no sense" not in one["name"]]
    for envelope in spoken(vectors):
        action = envelope["action"]
        if action.startswith("session."):
            kind = (
                "answer" if action.endswith(".ok") else "request" if action == "session.refresh" else "push"
            )
            assert misfits_of_part(kind, action, envelope["data"]) == []


def test_the_examples_of_the_contract_page_fit_the_schemas() -> None:
    checked = 0
    for text in re.findall(
        r"```json\n(.*?)```", (ROOT / "docs/reference/protocol.md").read_text(), re.DOTALL
    ):
        for envelope in spoken(json.loads(text)):
            action = envelope["action"]
            kind = "answer" if action.endswith(".ok") else "request"
            if (schema := schema_of(kind, action)) is not None:
                jsonschema_rs.validate(schema, envelope["data"])
                checked += 1
            if "msg_id" in envelope:
                jsonschema_rs.validate(SCHEMAS["envelope"], envelope)
    assert checked == 3
