"""JSON Schemas of the messages: from pydantic models, and from the structs of bodies on RabbitMQ.

They are pydantic's, with these differences: each field has its text from the docstring of its model, and no title; a
field of an answer, push or event that may be null need not be there, because fields without a value are left out;
``$ref`` has no neighbours (JSON Schema draft 7, which AsyncAPI uses, ignores them).
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from towpath.protocol.messages import Command, Directed, Disconnect, Session
from towpath.protocol.revocations import Revocation
from towpath.tools.contract.catalogue import Message, Mode

Schema = dict[str, Any]

#: The structs that are bodies on RabbitMQ.
STRUCTS: Final = (Command, Directed, Revocation)


class _Generator(GenerateJsonSchema):
    def model_schema(self, schema: Any) -> Schema:
        found: Schema = super().model_schema(schema)
        _describe(found, schema["cls"])
        if self.mode == "serialization":
            required = [name for name in found.get("required", ()) if not _may_be_null(found, name)]
            found.pop("required", None)
            if required:
                found["required"] = required
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def of_messages(messages: Iterable[Message], template: str) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """A reference for each message by its key, and all definitions that they refer to.

    Args:
        template: The form of a reference, with ``{model}`` in it.
    """
    wanted = list(messages)
    pairs = list(dict.fromkeys((message.model, message.mode) for message in wanted))
    refs, whole = models_json_schema(pairs, by_alias=True, ref_template=template, schema_generator=_Generator)
    definitions = {name: _tidy(schema) for name, schema in sorted(whole.get("$defs", {}).items())}
    return {message.key: dict(refs[message.model, message.mode]) for message in wanted}, definitions


def of_model(model: type[BaseModel], mode: Mode, template: str) -> dict[str, Schema]:
    """The definitions of one model, its own among them."""
    _, whole = models_json_schema([(model, mode)], ref_template=template, schema_generator=_Generator)
    return {name: _tidy(schema) for name, schema in whole["$defs"].items()}


def of_structs(template: str, envelope: Schema) -> dict[str, Schema]:
    """The definitions of :data:`STRUCTS`, each as ``Body.<name>``.

    Args:
        envelope: The schema of an envelope inside a body.
    """
    names = template.replace("{model}", "Body.{name}")
    _, found = msgspec.json.schema_components(
        [_without_raw(struct) for struct in STRUCTS], ref_template=names
    )
    for struct in (*STRUCTS, Disconnect, Session):
        schema = found[struct.__name__]
        if "envelope" in schema["properties"]:
            schema["properties"]["envelope"] = dict(envelope)
        _describe(schema, struct)
    return {f"Body.{name}": _tidy(schema) for name, schema in found.items()}


def _without_raw(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same struct with an object where it has JSON text, which has no schema."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if field.type is msgspec.Raw:
            fields.append((field.name, dict[str, Any], msgspec.field(default_factory=dict)))
        elif field.required:
            fields.append((field.name, field.type))
        else:
            default = {"default": field.default, "default_factory": field.default_factory}
            given = {name: value for name, value in default.items() if value is not msgspec.NODEFAULT}
            fields.append((field.name, field.type, msgspec.field(**given)))
    return msgspec.defstruct(struct.__name__, fields)


def lead(docstring: str) -> str:
    """The first paragraph of a docstring, as Markdown."""
    return _plain(inspect.cleandoc(docstring).partition("\n\n")[0])


def _describe(schema: Schema, cls: type) -> None:
    """Put the texts of a docstring where they belong: one for the model, one for each field."""
    own = cls.__doc__ or ""
    text = (
        "" if own.startswith(f"{cls.__name__}(") else lead(own)
    )  # a dataclass describes itself by its signature
    schema.pop("description", None)
    if text and "description" not in schema:
        schema["description"] = text
    meanings: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        meanings |= dict(_fields(parent.__doc__ or ""))
    for name, part in schema.get("properties", {}).items():
        if name in meanings and "description" not in part:
            part["description"] = meanings[name]


def _fields(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of each entry below ``Attributes:``; several names may share a text."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    for entry in re.split(r"\n {4}(?=\w)", "\n" + section.partition("\n\n")[0].rstrip()):
        names, colon, text = entry.partition(": ")
        if colon:
            for name in names.split(", "):
                yield name.strip(), _plain(text)


def _plain(text: str) -> str:
    words = " ".join(text.split())
    plain = re.sub(r":\w+:`~?(?:\.|\w)*?(\w+)`", r"`\1`", words).replace("``", "`")
    return plain.replace("`None`", "`null`").replace("`True`", "`true`").replace("`False`", "`false`")


def _may_be_null(schema: Schema, name: str) -> bool:
    part: Mapping[str, Any] = schema["properties"].get(name, {})
    return {"type": "null"} in part.get("anyOf", ()) or not set(part) - {"description", "default"}


def _tidy(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # OpenAPI's; AsyncAPI has another one of this name. The alternatives are complete without it.
    found = {name: _tidy(part) for name, part in schema.items() if name != "discriminator"}
    if isinstance(found.get("$ref"), str) and len(found) > 1:
        found = {"allOf": [{"$ref": found.pop("$ref")}], **found}
    return found
