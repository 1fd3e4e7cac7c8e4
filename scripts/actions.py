"""Writes clients/js/src/actions.ts from the services' tables: ``make docs``. A test fails when the two differ."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from towpath.servicekit.installed import installed_services
from towpath.tools.contract.catalogue import Party, parties

FILE: Final = Path(__file__).parent.parent / "clients/js/src/actions.ts"

HEAD: Final = """\
/**
 * The actions and pushes of the services that come with Towpath, for the types of `request` and `on`.
 *
 * Written by `make docs` from the services' handlers and their models. Add your own by declaration merging:
 *
 *     declare module "@towpath/client" {
 *       interface Actions {
 *         "delivery.estimate": { data: { postcode: string }; answer: { days: number } };
 *       }
 *     }
 */
"""

#: Models with another form in answers than in requests.
TOLD_OTHERWISE: Final = {"Item"}

_PLAIN: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
_EMPTY: Final = "Record<string, never>"
Mode = Literal["validation", "serialization"]


def services() -> Sequence[Party]:
    """The services of this repository, by name; others may be installed as well."""
    folder = Path(__file__).parent.parent / "services"
    own = [one.definition() for one in installed_services() if (folder / one.name).is_dir()]
    return [party for party in parties(own) if party.domain in {service.domain for service in own}]


class NameTaken(Exception):
    """Two models of one name have two shapes."""


def render() -> str:
    """The file."""
    types = _Types()
    actions, pushes = [], []
    for service in services():
        for command in service.commands:
            asked = types.name(command.request.model, "validation")
            shown = types.name(command.answer.model, "serialization")
            actions.append(f'  "{command.request.action}": {{ data: {asked}; answer: {shown} }};')
        for push in service.pushes:
            pushes.append(f'  "{push.action}": {types.name(push.model, "serialization")};')
    return "\n".join(
        [
            HEAD + "export interface Actions {",
            *actions,
            "}\n",
            "/** Each push with its data. */",
            "export interface Pushes {",
            *pushes,
            "}",
            *types.declarations.values(),
            "",
        ]
    )


class _Types:
    """Payload models as TypeScript types, by way of their JSON Schema, declared in the order they are met."""

    def __init__(self) -> None:
        self.declarations: dict[str, str] = {}

    def name(self, model: type[BaseModel], mode: Mode) -> str:
        """The type of a model's JSON: in requests (``validation``), or in answers and pushes."""
        _, schema = models_json_schema([(model, mode)], ref_template="{model}")
        return _Schema(schema["$defs"], mode, self).type({"$ref": model.__name__})

    def declare(self, name: str, declaration: str) -> None:
        if self.declarations.setdefault(name, declaration) != declaration:
            raise NameTaken(f"{name} has two shapes:\n{self.declarations[name]}\n{declaration}")


class _Schema:
    def __init__(self, definitions: Mapping[str, Any], mode: Mode, types: _Types) -> None:
        self._definitions = definitions
        self._mode = mode
        self._types = types

    def type(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return self._declared(schema["$ref"])
        if "const" in schema:
            return json.dumps(schema["const"])
        if "enum" in schema:
            return " | ".join(map(json.dumps, schema["enum"]))
        if "anyOf" in schema:
            return " | ".join(dict.fromkeys(map(self.type, schema["anyOf"])))
        kind = schema.get("type")
        if kind == "array":
            item = self.type(schema["items"])
            return f"({item})[]" if " | " in item else f"{item}[]"
        if kind == "object":
            return f"Record<string, {self.type(schema['additionalProperties'])}>"
        return _PLAIN[kind] if isinstance(kind, str) else "unknown"

    def _declared(self, name: str) -> str:
        schema = self._definitions[name]
        about = _comment(schema.get("description", ""))
        if "type" not in schema:
            return "unknown"
        if schema["type"] == "object" and not schema.get("properties"):
            return _EMPTY
        if schema["type"] == "object":
            # Requests allow more forms than answers: an exact amount is a number or a text, in answers a text.
            shown = name + "View" if self._mode == "serialization" and self._differs(schema) else name
            fields = [f"  {self._field(name, schema)}" for name in schema["properties"]]
            self._types.declare(shown, "\n".join([f"\n{about}export interface {shown} {{", *fields, "}"]))
            return shown
        self._types.declare(name, f"\n{about}export type {name} =\n  {self.type(schema)};")
        return name

    def _differs(self, schema: Mapping[str, Any]) -> bool:
        return schema.get("title") in TOLD_OTHERWISE

    def _field(self, name: str, schema: Mapping[str, Any]) -> str:
        part = schema["properties"][name]
        parts = part.get("anyOf", [part])
        may_be_null = {"type": "null"} in parts or ("default" in part and part["default"] is None)
        given = [one for one in parts if one != {"type": "null"}]
        # A field that is None is left out of answers and pushes.
        may_lack = name not in schema.get("required", []) or (self._mode == "serialization" and may_be_null)
        return f"{name}{'?' if may_lack else ''}: {self.type({'anyOf': given})};"


def _comment(docstring: str) -> str:
    lead = " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())
    plain = re.sub(r":\w+:`~?(?:\.|\w)*?(\w+)`", r"`\1`", lead).replace("``", "`")
    return f"/** {plain} */\n" if plain else ""


if __name__ == "__main__":
    FILE.write_text(render())
