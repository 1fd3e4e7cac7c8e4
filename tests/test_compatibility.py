"""The gate of the contract: each kind of breaking change is named, and no other change is."""

import copy
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from towpath.tools.contract.compatibility import Intended, breaks, intended, may_break, problems
from towpath.tools.contract.schema_changes import changes

ROOT: Final = Path(__file__).parents[1]
SCRIPT: Final = ROOT / "scripts/contract.py"
DOCUMENT: Final[dict[str, Any]] = json.loads((ROOT / "docs/reference/asyncapi.json").read_text())

Schema = dict[str, Any]


def planted(*places: tuple[str, Any]) -> list[str]:
    """The breaks of the contract with these changes: path with ``/`` → new value; ``None`` removes."""
    later = copy.deepcopy(DOCUMENT)
    for path, value in places:
        *above, last = path.split("/")
        target = later
        for word in above:
            target = target[word]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return breaks(DOCUMENT, later)


SCHEMAS: Final = "components/schemas"
CODES: Final = DOCUMENT["channels"]["websocket"]["x-close-codes"]
ERRORS: Final = DOCUMENT["channels"]["websocket"]["x-error-codes"]


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("operations/request.chat.typing", None, "request chat.typing is removed"),
        ("operations/push.chat.crowd", None, "push chat.crowd is removed"),
        ("operations/heard.orders.order.paid", None, "heard orders.order.paid is removed"),
        ("operations/published.orders.order.created", None, "published orders.order.created is removed"),
        ("operations/request.chat.send/reply/messages", [], "answer chat.send.ok is removed"),
        (
            f"{SCHEMAS}/SendMessage/required",
            ["room", "text", "client_ref"],
            "request chat.send: `client_ref` is required now",
        ),
        (
            f"{SCHEMAS}/SendMessage/properties/client_ref",
            None,
            "request chat.send: `client_ref` is removed, and would be ignored",
        ),
        (
            f"{SCHEMAS}/SubmitOrder/properties/order_id",
            {"type": "string"},
            "request order.submit: `order_id`: null is refused now",
        ),
        (
            f"{SCHEMAS}/Item-Input/properties/quantity/minimum",
            2,
            "request order.submit: `items[].quantity`: at least 2 now, and at least 1 before",
        ),
        (
            f"{SCHEMAS}/SendMessage/properties/text/maxLength",
            1000,
            "request chat.send: `text`: at most 1000 characters now, and 4000 before",
        ),
        (
            f"{SCHEMAS}/ReadHistory/properties/limit/default",
            20,
            "request chat.history: `limit`: its default is 20 now, and was 50",
        ),
        (
            f"{SCHEMAS}/OrderEvent/properties/revision",
            {"type": "string"},
            "heard orders.order.paid: `revision`: an integer is refused now",
        ),
        (f"{SCHEMAS}/Joined/properties/count", None, "answer chat.join.ok: `count` is removed"),
        (f"{SCHEMAS}/Joined/required", ["room", "seq"], "answer chat.join.ok: `members` may be missing now"),
        (f"{SCHEMAS}/Message/properties/seq/type", "string", "push chat.message: `seq` may be a string now"),
        (
            f"{SCHEMAS}/Status/enum",
            [*DOCUMENT["components"]["schemas"]["Status"]["enum"], "archived"],
            'push order.updated: `status` may be "archived" now',
        ),
        (
            f"{SCHEMAS}/OrderAnnounced/properties/user_id",
            None,
            "published orders.order.created: `user_id` is removed",
        ),
        (f"{SCHEMAS}/Envelope/properties/key", None, "envelope: `key` is removed, and would be ignored"),
        (
            "channels/event.order.paid/address",
            "orders.paid",
            "heard orders.order.paid is at towpath.events orders.paid now, and was at towpath.events order.paid",
        ),
        ("operations/push.chat.crowd/action", "receive", "push chat.crowd is received now, and was sent"),
        (
            "channels/websocket/x-close-codes",
            [{**one, "reconnect": False} if one["code"] == 4003 else one for one in CODES],
            "close code 4003: reconnect is false now",
        ),
        ("channels/websocket/x-close-codes", CODES[:-1], "close code 4503 is removed"),
        ("channels/websocket/x-error-codes", ERRORS[1:], "error code bad_envelope is removed"),
        (
            f"{SCHEMAS}/Body.Directed/properties/subscribe/items/type",
            "integer",
            "directed: `subscribe[]`: a string is refused now",
        ),
    ],
)  # fmt: skip
def test_each_breaking_change_is_named(place: str, value: Any, named: str) -> None:
    assert named in planted((place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("operations/request.chat.sing", DOCUMENT["operations"]["request.chat.send"]),
        ("operations/push.chat.sang", DOCUMENT["operations"]["push.chat.message"]),
        (f"{SCHEMAS}/SendMessage/properties/mood", {"type": "string", "default": ""}),
        (f"{SCHEMAS}/Message/properties/mood", {"type": "string"}),
        (f"{SCHEMAS}/Joined/properties/owner", {"type": "string"}),
        (f"{SCHEMAS}/SendMessage/properties/text/maxLength", 5000),
        (f"{SCHEMAS}/SubmitOrder/properties/amount", {}),
        (f"{SCHEMAS}/Status/enum", DOCUMENT["components"]["schemas"]["Status"]["enum"][:-1]),
        (f"{SCHEMAS}/ErrorCode/enum", [*DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"], "gone"]),
        (f"{SCHEMAS}/Message/description", "Other words."),
        ("channels/websocket/x-close-codes", [*CODES, {"code": 4004, "reconnect": True}]),
        ("operations/request.chat.send/x-cost", 3),
        ("info/version", "9.0.0"),
    ],
)
def test_changes_that_break_nothing_are_not_named(place: str, value: Any) -> None:
    assert planted((place, value)) == []


# Schemas alone


@pytest.mark.parametrize(
    ("old", "new", "received", "named"),
    [
        ({"type": "integer"}, {"type": "number"}, True, []),
        ({"type": "integer"}, {"type": "number"}, False, ["`data` may be a number now"]),
        ({"type": "number"}, {"type": "integer"}, True, ["`data`: a number is refused now"]),
        ({"enum": ["a", "b"]}, {"type": "string"}, True, []),
        ({"enum": ["a", "b"]}, {"type": "string"}, False, ["`data` may be another string now"]),
        ({"enum": ["a", "b"]}, {"type": "string", "pattern": "^a$"}, True, ['`data`: "b" is refused now']),
        ({"type": "string"}, {"enum": ["a"]}, True, ["`data`: another string is refused now"]),
        ({"enum": ["a"], "x-open": True}, {"enum": ["b"], "x-open": True}, False, []),
        ({}, {"type": "string"}, True, ["`data`: any JSON is refused now"]),
        ({"type": "string"}, {"type": "string", "pattern": "a"}, True, ['`data`: pattern is "a" now, and was null']),
        ({"type": "array", "items": {"type": "string"}}, {"type": "array"}, True, []),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
            True,
            ["`*`: at least 1 now, and any number before"],
        ),
        (
            {"type": "object", "additionalProperties": True},
            {"type": "object", "additionalProperties": {"type": "integer"}},
            True,
            ["`*`: any JSON is refused now"],
        ),
        (
            {"type": "object", "properties": {}},
            {"type": "object", "properties": {}, "additionalProperties": False},
            True,
            ["`*`: fields that are not listed are refused now"],
        ),
        (
            {"type": "array"},
            {"type": "array", "uniqueItems": True},
            True,
            ["`data`: uniqueItems is true now, and was null"],
        ),
        (
            {"type": "integer", "minimum": 0},
            {"type": "integer", "exclusiveMinimum": 0},
            True,
            ["`data`: more than 0 now, and at least 0 before"],
        ),
    ],
)  # fmt: skip
def test_two_schemas_are_compared_for_their_reader(
    old: Schema, new: Schema, received: bool, named: list[str]
) -> None:
    assert changes(old, new, {}, {}, received=received) == named


def test_a_type_that_contains_itself_is_compared() -> None:
    def tree(kind: str) -> Schema:
        children = {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
        return {
            "$defs": {"Tree": {"type": "object", "properties": {"name": {"type": kind}, "below": children}}}
        }

    reference = {"$ref": "#/$defs/Tree"}
    assert changes(reference, reference, tree("string"), tree("string"), received=True) == []
    found = changes(reference, reference, tree("string"), tree("integer"), received=True)
    assert found[0] == "`name`: a string is refused now"


NAMES: Final = st.sampled_from("abcd")
LEAVES: Final = st.one_of(
    st.just({}),
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"const": True}]),
    st.builds(
        lambda kind, low, size: {"type": kind, "minimum": low, "maximum": low + size},
        st.sampled_from(["integer", "number"]), st.integers(-3, 3), st.integers(0, 4),
    ),
    st.sampled_from([{"type": "integer"}, {"type": "number"}, {"type": "integer", "exclusiveMinimum": 0}]),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
        st.integers(0, 2), st.integers(0, 3),
    ),
    st.sampled_from([{"type": "string"}, {"type": "string", "pattern": "^[ab]*$"}]),
    st.lists(NAMES, min_size=1, max_size=3, unique=True).map(lambda values: {"enum": values}),
)  # fmt: skip


def objects(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Objects of ``parts``, some of them required."""
    return st.dictionaries(NAMES, parts, max_size=3).flatmap(
        lambda fields: st.lists(st.sampled_from(sorted(fields) or ["a"]), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": fields,
                "required": [name for name in required if name in fields],
            }
        )
    )


ANY_SCHEMA: Final[st.SearchStrategy[Schema]] = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        objects(parts),
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, parts, st.integers(0, 3)),
        st.builds(lambda values: {"type": "object", "additionalProperties": values}, parts),
        st.builds(lambda one, other: {"anyOf": [one, other]}, parts, parts),
    ),
    max_leaves=6,
)  # fmt: skip


@st.composite
def later(draw: st.DrawFn, schema: Schema) -> Schema:
    """A schema with some of its keywords or parts changed, or another one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(ANY_SCHEMA)
    changed = dict(schema)
    for word in draw(st.lists(st.sampled_from(sorted(schema) or [""]), max_size=2)):
        value = schema.get(word)
        if isinstance(value, int) and not isinstance(value, bool):
            changed[word] = max(0, value + draw(st.integers(-2, 2)))
        elif word in ("properties", "required", "enum", "maxLength", "pattern"):
            changed.pop(word, None)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            changed[word] = draw(later(schema[word]))
    if "anyOf" in schema:
        changed["anyOf"] = [draw(later(part)) for part in schema["anyOf"]]
    if isinstance(changed.get("properties"), dict):
        changed["properties"] = {name: draw(later(part)) for name, part in changed["properties"].items()}
    return changed


def values_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a schema of :data:`ANY_SCHEMA` accepts, and only fields that it lists."""
    if "anyOf" in schema:
        return st.one_of([values_of(part) for part in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer" | "number" as kind:
            low = schema.get("minimum", 1 if "exclusiveMinimum" in schema else -5)
            high = schema.get("maximum", 9)
            assume(low <= high)
            return st.integers(low, high) if kind == "integer" else st.floats(low, high)
        case "string":
            low = schema.get("minLength", 0)
            assume(low <= schema.get("maxLength", 9))
            return st.text(
                "ab" if "pattern" in schema else "abc",
                min_size=low,
                max_size=schema.get("maxLength", low + 3),
            )
        case "array":
            return st.lists(values_of(schema.get("items", {})), max_size=schema.get("maxItems", 3))
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(NAMES, values_of(schema["additionalProperties"]), max_size=2)
        case "object":
            fields = {name: values_of(part) for name, part in schema.get("properties", {}).items()}
            required = schema.get("required", ())
            missing = {name: values_of({}) for name in required if name not in fields}
            return st.fixed_dictionaries(
                {name: one for name, one in {**fields, **missing}.items() if name in required},
                optional={name: one for name, one in fields.items() if name not in required},
            )
        case _:
            return st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("abcd", max_size=4))


@given(st.data())
def test_a_value_of_the_earlier_schema_is_one_of_the_later_if_no_break_is_named(data: st.DataObject) -> None:
    old = data.draw(ANY_SCHEMA)
    new = data.draw(later(old))
    if changes(old, new, {}, {}, received=True):
        return
    value = data.draw(values_of(old))
    assert jsonschema_rs.is_valid(new, value), (old, new, value)


@given(ANY_SCHEMA, st.booleans())
def test_no_schema_breaks_itself(schema: Schema, received: bool) -> None:
    assert changes(schema, schema, {}, {}, received=received) == []


@given(st.data())
def test_an_added_optional_field_never_breaks(data: st.DataObject) -> None:
    schemas: dict[str, Schema] = DOCUMENT["components"]["schemas"]
    names = sorted(name for name, schema in schemas.items() if "properties" in schema)
    changed = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    fields = {name: data.draw(ANY_SCHEMA) for name in ("mood", "hue")}
    grown = {
        name: {**schema, "properties": schema["properties"] | fields} if name in changed else schema
        for name, schema in schemas.items()
    }
    for name in (*changed, "OrderPage", "RoomList", "SubmitOrder"):  # the last three contain others
        reference = {"$ref": f"#/components/schemas/{name}"}
        for received in (True, False):
            later_document = {"components": {"schemas": grown}}
            assert changes(reference, reference, DOCUMENT, later_document, received=received) == []


# Intended breaks, and the program


def test_an_intended_break_passes_with_a_higher_version_only() -> None:
    listed = [Intended("request chat.typing is removed", "replaced")]
    found = ["request chat.typing is removed"]
    assert problems(found, [], "0.1.0", "0.2.0") == ["breaks 0.1.0: request chat.typing is removed"]
    assert problems(found, listed, "0.1.0", "0.2.0") == []
    assert problems(found, listed, "0.1.0", "0.1.5") == [
        "0.1.5 may not break 0.1.0: raise the second number of the version"
    ]
    assert problems([], listed, "0.1.0", "0.2.0") == [
        "listed as intended, and not a break: request chat.typing is removed"
    ]


@pytest.mark.parametrize(
    ("released", "version", "may"),
    [
        ("0.1.0", "0.1.9", False),
        ("0.9.0", "0.10.0", True),
        ("1.2.0", "1.3.0", False),
        ("1.9.0", "2.0.0", True),
    ],
)
def test_a_version_may_break_another_by_its_number(released: str, version: str, may: bool) -> None:
    assert may_break(released, version) is may


def test_an_intended_break_needs_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "breaks.toml"
    assert intended(path) == []
    path.write_text('[[break]]\nchange = "x"\nreason = "y"\n')
    assert intended(path) == [Intended("x", "y")]
    for text in ('[[break]]\nchange = "x"\n', '[[break]]\nchange = "x"\nreason = " "\n', "a = 1\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"breaks\.toml: give"):
            intended(path)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a function of scripts/contract.py on a release and intended breaks of the test."""

    def run(name: str, *, released: Schema, listed: str = "") -> Any:
        folder = tmp_path / "released/0.0.9"
        folder.mkdir(parents=True)
        (folder / "asyncapi.json").write_text(json.dumps(released))
        (tmp_path / "breaks.toml").write_text(listed)
        names = runpy.run_path(str(SCRIPT))
        monkeypatch.setitem(names["last_release"].__globals__, "RELEASED", tmp_path / "released")
        monkeypatch.setitem(names["last_release"].__globals__, "BREAKS", tmp_path / "breaks.toml")
        return names[name]()

    return run


def test_the_check_names_a_planted_break(script: Callable[..., Any]) -> None:
    released = copy.deepcopy(DOCUMENT)
    released["operations"]["request.chat.sing"] = released["operations"]["request.chat.send"]
    released["info"]["version"] = "0.0.9"
    line = "breaks 0.0.9: request chat.sing is removed"
    assert script("incompatible", released=released) == [line]


def test_the_check_passes_a_listed_break(script: Callable[..., Any]) -> None:
    released = copy.deepcopy(DOCUMENT)
    released["operations"]["request.chat.sing"] = released["operations"]["request.chat.send"]
    released["info"]["version"] = "0.0.9"
    listed = '[[break]]\nchange = "request chat.sing is removed"\nreason = "no client sang"\n'
    assert script("incompatible", released=released, listed=listed) == []


def test_the_contract_breaks_no_release() -> None:
    assert runpy.run_path(str(SCRIPT))["incompatible"]() == []
