"""Schema changes: what breaks between an earlier and a later JSON Schema of one message. Pure.

A message has a writer and a reader, and a change breaks when the reader does not accept what the writer writes:

* of a message that Towpath *receives*, clients and backends of the earlier schema write, and the later one reads;
* of a message that it *sends*, the later schema writes, and clients of the earlier one read.

Guarantees: a schema does not break itself, and an added optional field breaks nothing. If no break of a received
message is found, each value of the earlier schema is one of the later schema. Bounds of sent messages (lengths,
numbers, patterns) are not compared: clients read what comes. Rules that a schema cannot have, such as validators in
Python, are not seen. A keyword that is not known here is a break when it changes.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import gt, lt
from typing import Any, Final

Schema = Mapping[str, Any]

#: Keywords that say nothing about values.
_ANNOTATIONS: Final = frozenset(
    {"$comment", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"}
)
#: Keywords that are compared by their meaning.
_COMPARED: Final = frozenset(
    {
        "$ref", "additionalProperties", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum",
        "format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength",
        "minProperties", "minimum", "oneOf", "pattern", "properties", "propertyNames", "required", "type",
    }
)  # fmt: skip
_ANY_TYPE: Final = "any JSON"
#: Values of a sent field with this mark may grow: readers expect ones that are not listed.
OPEN: Final = "x-open"


def changes(
    old: Schema, new: Schema, old_document: Schema, new_document: Schema, *, received: bool
) -> list[str]:
    """The breaks between two schemas, a text for each, the first word of it being the field.

    Args:
        old_document, new_document: Where the references lead.
        received: Whether Towpath receives the message; it sends it otherwise.
    """
    if received:
        found = _Reading(old_document, new_document, received=True).of(old, new, "")
    else:
        found = _Reading(new_document, old_document, received=False).of(new, old, "")
    return list(dict.fromkeys(found))


class _Reading:
    """The reader's problems with what the writer may write."""

    def __init__(self, of_writer: Schema, of_reader: Schema, *, received: bool) -> None:
        self._of_writer = of_writer
        self._of_reader = of_reader
        self._received = received
        self._entered: set[tuple[str, str]] = set()

    def of(self, written: Schema, read: Schema, path: str) -> Iterator[str]:
        """All problems at ``path`` and below."""
        pair = json.dumps(written, sort_keys=True), json.dumps(read, sort_keys=True)
        if pair in self._entered:
            return  # a type that contains itself: it is being compared already
        self._entered.add(pair)
        readable = list(_alternatives(read, self._of_reader))
        for one in _alternatives(written, self._of_writer):
            yield from self._best(one, readable, path)
        self._entered.discard(pair)

    def _best(self, written: Schema, readable: Sequence[Schema], path: str) -> Iterator[str]:
        """The problems with one alternative: none if the reader has one for it, else those with the nearest."""
        nearest: list[str] | None = None
        for one in readable:
            if not _is_kind_of(_kind(written), _kind(one)):
                continue
            problems = list(self._same_kind(written, one, path))
            if not problems:
                return
            if nearest is None or len(problems) < len(nearest):
                nearest = problems
        yield from [self._refused(path, _shown(written))] if nearest is None else nearest

    def _same_kind(self, written: Schema, read: Schema, path: str) -> Iterator[str]:
        values = _values(read)
        if values is not None and not (read.get(OPEN) and not self._received):
            yield from self._listed(written, values, path)
            return
        if (known := _values(written)) is not None:
            for value in known:
                if self._received and not _fits(value, read):
                    yield self._refused(path, json.dumps(value))
            return
        match _kind(read):
            case "object":
                yield from self._objects(written, read, path)
            case "array":
                yield from self._arrays(written, read, path)
            case _:
                pass
        if self._received:
            yield from _narrower(written, read, path)

    def _listed(self, written: Schema, values: Sequence[Any], path: str) -> Iterator[str]:
        known = _values(written)
        if known is None:
            yield self._refused(path, _shown(written, other=True))
            return
        for value in known:
            if not _is_in(value, values):
                yield self._refused(path, json.dumps(value))

    def _objects(self, written: Schema, read: Schema, path: str) -> Iterator[str]:
        theirs: Schema = written.get("properties", {})
        ours: Schema = read.get("properties", {})
        always = set(written.get("required", ()))
        rest, read_rest = written.get("additionalProperties", True), read.get("additionalProperties", True)
        for name in read.get("required", ()):
            if name not in always:
                yield self._missing(f"{path}{name}", exists=name in theirs)
        for name, part in theirs.items():
            if name in ours:
                yield from self.of(part, ours[name], f"{path}{name}.")
                yield from self._default(ours[name], part, f"{path}{name}")
            elif isinstance(read_rest, Mapping):
                yield from self.of(part, read_rest, f"{path}{name}.")
            elif self._received:
                yield f"`{path}{name}` is removed, and would be ignored"
        if not self._received:
            for name in ours:
                if name not in theirs:
                    yield f"`{path}{name}` is removed"
        # An object of listed fields has no others: writers add none that they do not know.
        others = rest if isinstance(rest, Mapping) else None if "properties" in written else {}
        if others is not None and rest is not False:
            for name in ours:
                if name not in theirs:
                    yield from self.of(others, ours[name], f"{path}{name}.")
        if isinstance(read_rest, Mapping):
            if others is not None and rest is not False:
                yield from self.of(others, read_rest, f"{path}*.")
        elif read_rest is False and rest is not False and self._received:
            yield f"`{path}*`: fields that are not listed are refused now"
        yield from self._names(written, read, path)

    def _names(self, written: Schema, read: Schema, path: str) -> Iterator[str]:
        names = read.get("propertyNames")
        if names is not None and self._received:
            yield from self.of(
                {"type": "string", **written.get("propertyNames", {})}, names, f"{path}(name)."
            )

    def _arrays(self, written: Schema, read: Schema, path: str) -> Iterator[str]:
        if "items" in read:
            yield from self.of(written.get("items", {}), read["items"], f"{path.removesuffix('.')}[].")

    def _default(self, read: Schema, written: Schema, path: str) -> Iterator[str]:
        if self._received and "default" in written and read.get("default") != written["default"]:
            now = json.dumps(read["default"]) if "default" in read else "another"
            yield f"`{path}`: its default is {now} now, and was {json.dumps(written['default'])}"

    def _refused(self, path: str, value: str) -> str:
        field = _field(path)
        return f"{field}: {value} is refused now" if self._received else f"{field} may be {value} now"

    def _missing(self, path: str, *, exists: bool) -> str:
        if self._received:
            return f"`{path}` is required now"
        return f"`{path}` may be missing now" if exists else f"`{path}` is removed"


# Alternatives


def _alternatives(schema: Schema | bool, document: Schema, depth: int = 0) -> Iterator[Schema]:
    """The schema without references and choices: one for each type that a value may have."""
    if isinstance(schema, bool) or depth > 50:
        yield {}
        return
    if "$ref" in schema:
        yield from _alternatives(_resolved(schema["$ref"], document), document, depth + 1)
        return
    if len(schema.get("allOf", ())) == 1:
        # Made of a reference with neighbours (`schemas._tidy`): what is beside it only marks.
        marks = {name: value for name, value in schema.items() if name.startswith("x-")}
        for one in _alternatives(schema["allOf"][0], document, depth + 1):
            yield {**one, **marks}
        return
    for word in ("anyOf", "oneOf"):
        if word in schema:
            for part in schema[word]:
                yield from _alternatives(part, document, depth + 1)
            return
    kinds = schema.get("type")
    if isinstance(kinds, list):
        for kind in kinds:
            yield {**schema, "type": kind}
    else:
        yield schema


def _resolved(reference: str, document: Schema) -> Schema:
    found: Any = document
    for word in reference.removeprefix("#/").split("/"):
        found = found[word.replace("~1", "/").replace("~0", "~")]
    resolved: Schema = found
    return resolved


def _kind(schema: Schema) -> str:
    """The type of the values of an alternative."""
    if (kind := schema.get("type")) is not None:
        return str(kind)
    if (values := _values(schema)) is not None and values:
        kinds = {_kind_of_value(value) for value in values}
        return kinds.pop() if len(kinds) == 1 else _ANY_TYPE
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return _ANY_TYPE


def _kind_of_value(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else kinds[type(value)]


def _is_kind_of(written: str, read: str) -> bool:
    return read in (written, _ANY_TYPE) or (written, read) == ("integer", "number")


def _values(schema: Schema) -> Sequence[Any] | None:
    """The values of an alternative that lists them."""
    if "const" in schema:
        return [schema["const"]]
    values: Sequence[Any] | None = schema.get("enum")
    return values


def _is_in(value: Any, values: Sequence[Any]) -> bool:
    return json.dumps(value) in map(json.dumps, values)


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a listed value is one of an alternative that lists none."""
    if isinstance(value, str):
        long = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
        return long and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return not list(_narrower({"minimum": value, "maximum": value}, schema, ""))
    return True


# Bounds


def _narrower(written: Schema, read: Schema, path: str) -> Iterator[str]:
    """The bounds of the reader that the writer may cross."""
    field = _field(path)
    for word, unit in (("Length", "characters"), ("Items", "items"), ("Properties", "fields")):
        low, high = f"min{word}", f"max{word}"
        if read.get(low, 0) > written.get(low, 0):
            yield f"{field}: at least {read[low]} {unit} now, and {written.get(low, 0)} before"
        if read.get(high, math.inf) < written.get(high, math.inf):
            yield f"{field}: at most {read[high]} {unit} now, and {written.get(high, 'any number')} before"
    for bound, is_narrower in ((_low, gt), (_high, lt)):
        if is_narrower(bound(read), bound(written)):
            yield f"{field}: {_bounded(bound(read), bound)} now, and {_bounded(bound(written), bound)} before"
    for word in sorted({"pattern", "format", *(set(read) - _ANNOTATIONS - _COMPARED)}):
        if word in read and not word.startswith("x-") and read[word] != written.get(word):
            yield f"{field}: {word} is {json.dumps(read[word])} now, and was {json.dumps(written.get(word))}"


def _low(schema: Schema) -> tuple[float, bool]:
    """The lower bound, and whether it is excluded itself."""
    bounds = [(schema.get("minimum", -math.inf), False), (schema.get("exclusiveMinimum", -math.inf), True)]
    return max(bounds)


def _high(schema: Schema) -> tuple[float, bool]:
    """The upper bound, and whether it is included itself."""
    bounds = [(schema.get("maximum", math.inf), True), (schema.get("exclusiveMaximum", math.inf), False)]
    return min(bounds)


def _bounded(bound: tuple[float, bool], side: Callable[[Schema], tuple[float, bool]]) -> str:
    number, mark = bound
    if math.isinf(number):
        return "any number"
    words = ("at least", "more than") if side is _low else ("less than", "at most")
    return f"{words[mark]} {number}"


# Texts


def _field(path: str) -> str:
    return f"`{path.removesuffix('.')}`" if path else "`data`"


def _shown(schema: Schema, *, other: bool = False) -> str:
    """The values of an alternative, for people."""
    kind = _kind(schema)
    if (values := _values(schema)) is not None:
        return " or ".join(map(json.dumps, values))
    if kind in ("null", _ANY_TYPE):
        return kind
    article = "another" if other else "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind}"
