"""The contract as a page of tables."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from towpath.protocol.close_codes import should_reconnect
from towpath.protocol.gateway import CLOSES, ERRORS, ErrorData
from towpath.tools.contract import schemas
from towpath.tools.contract.catalogue import Kind, Message, Party
from towpath.tools.contract.schemas import Schema

HEAD: Final = """\
# Actions, pushes and events

Every message of the gateway and of these services, with the fields of its `data`. For programs:
[asyncapi.json](asyncapi.json) ([AsyncAPI](https://www.asyncapi.com) 3.0), and [JSON Schemas](schemas) by domain.

A field with `?` may be left out. The number in the column *cost* is charged to the sender's rate limit.
"""
_REF: Final = "{model}"
_TITLES: Final = {
    "gateway": "The gateway",
    "service": "Every service",
}


def render(parties: Sequence[Party], head: str = HEAD) -> str:
    """The page, which begins with ``head``."""
    sent = [message for party in parties for message in party.messages]
    error = Message(Kind.ANSWER, "error", "gateway", ErrorData)
    refs, definitions = schemas.of_messages([*sent, error], _REF)
    models = _Models({key: ref["$ref"] for key, ref in refs.items()}, definitions)
    parts = [head, *(f"- [{_title(party)}](#{_anchor(_title(party))})" for party in parties)]
    parts += ["- [Errors](#errors)", "- [Close codes](#close-codes)", "- [Types](#types)", ""]
    for party in parties:
        parts += _party(party, models)
    parts += ["## Errors\n", f"`data` of `error` is {models.link(error)}. Its codes:\n"]
    parts += _table(
        ("code", "retryable", "when"),
        ((f"`{code}`", "yes" if code.retryable else "no", text) for code, text in ERRORS.items()),
    )
    parts += ["## Close codes\n"]
    parts += _table(
        ("code", "reconnect", "when"),
        ((str(int(code)), "yes" if should_reconnect(code) else "no", text) for code, text in CLOSES.items()),
    )
    parts += ["## Types\n", *models.render()]
    return "\n".join(parts).rstrip() + "\n"


def _party(party: Party, models: "_Models") -> Iterator[str]:
    yield f"## {_title(party)}\n"
    if party.commands:
        yield from _table(
            ("request", "data", "answer", "cost"),
            (
                (
                    f"`{command.request.action}`",
                    models.shown(command.request),
                    f"`{command.answer.action}` {models.shown(command.answer)}",
                    f"{command.cost:g}",
                )
                for command in party.commands
            ),
        )
    for title, messages in (
        ("push", party.pushes),
        ("event that it receives", party.heard),
        ("event that it publishes", party.published),
    ):
        if messages:
            rows = ((f"`{message.action}`", models.shown(message)) for message in messages)
            yield from _table((title, "data"), rows)


def _title(party: Party) -> str:
    title = _TITLES.get(party.name, party.name.capitalize())
    return f"{title}: {party.domain}" if party.domain else title


def _anchor(title: str) -> str:
    return "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_").replace(
        " ", "-"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


class _Models:
    """The definitions that the messages refer to, in the order of their names."""

    def __init__(self, of_messages: Mapping[str, str], definitions: Mapping[str, Schema]) -> None:
        self._of_messages = of_messages
        self._definitions = definitions

    def link(self, message: Message) -> str:
        """A link to the type of a message's ``data``."""
        return self._linked(self._of_messages[message.key])

    def shown(self, message: Message) -> str:
        """The fields of a message's ``data`` in short, with a link."""
        schema = self._definitions[self._of_messages[message.key]]
        required = schema.get("required", ())
        fields = [name if name in required else f"{name}?" for name in schema.get("properties", ())]
        return f"{self.link(message)} `{{{', '.join(fields)}}}`" if fields else "`{}`"

    def render(self) -> Iterator[str]:
        """A section for each type that has fields or values."""
        for name, schema in self._definitions.items():
            if schema.get("properties"):
                yield f"### {name}\n"
                if text := schema.get("description"):
                    yield f"{text}\n"
                yield from _table(("field", "type", "meaning"), self._fields(schema))
            elif "enum" in schema:
                yield f"### {name}\n"
                yield f"{_values(schema)}\n"

    def _fields(self, schema: Schema) -> Iterator[tuple[str, str, str]]:
        required = schema.get("required", ())
        for name, part in schema["properties"].items():
            default = part.get("default")
            meaning = [part.get("description", "")]
            meaning += [f"Default: `{json.dumps(default)}`."] if default not in (None, "", {}) else []
            shown = name if name in required else f"{name}?"
            yield f"`{shown}`", self._type(part), " ".join(text for text in meaning if text)

    def _type(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return self._linked(schema["$ref"])
        if "allOf" in schema:
            return " and ".join(map(self._type, schema["allOf"]))
        if "anyOf" in schema:
            found = dict.fromkeys(self._type(part) for part in schema["anyOf"] if part != {"type": "null"})
            return " or ".join(found)
        if "enum" in schema or "const" in schema:
            return _values(schema)
        kind = schema.get("type")
        if kind == "array":
            return f"list of {self._type(schema.get('items', {}))}{_bounds(schema, 'Items')}"
        if kind == "object":
            values = schema.get("additionalProperties")
            inner = f" of {self._type(values)}" if isinstance(values, dict) else ""
            return f"object{inner}{_bounds(schema, 'Properties')}"
        if kind == "string":
            return f"string{_bounds(schema, 'Length')}{_pattern(schema)}"
        return f"{kind}{_bounds(schema, 'imum')}" if kind else "any JSON"

    def _linked(self, name: str) -> str:
        schema = self._definitions[name]
        if schema.get("properties") or "enum" in schema:
            return f"[{name}](#{name.lower()})"
        return self._type(schema) if schema.get("type") != "object" else "`{}`"


def _values(schema: Mapping[str, Any]) -> str:
    return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))


def _bounds(schema: Mapping[str, Any], unit: str) -> str:
    low, high = schema.get(f"min{unit}"), schema.get(f"max{unit}")
    low = low if low is not None else schema.get("exclusiveMinimum")
    if high is None and (below := schema.get("exclusiveMaximum")) is not None:
        high = "2^63" if below == 2**63 else below
        return f", from {low} to below {high}" if low is not None else f", below {high}"
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", from {low}"
    return f", at most {high}" if high is not None else ""


def _pattern(schema: Mapping[str, Any]) -> str:
    return f", `{schema['pattern']}`" if "pattern" in schema else ""
