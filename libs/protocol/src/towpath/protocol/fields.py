"""Field types that payload models of several domains share."""

from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)

from towpath.protocol.routes import USER_ID_CHARACTERS, check_user_id, encode_word

#: Below what JSON readers on the way allow (pydantic's 200, the envelope around it included).
_MAX_DEPTH: Final = 100


class Payload(BaseModel):
    """``data`` of one action: strict about types, deaf to fields it does not know."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Empty(Payload):
    """``data`` without fields: ``{}``."""


def _no_control_characters(text: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError("must not contain control characters")
    return text


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain U+0000")
    return text


def _fits_a_routing_key(word: str) -> str:
    encode_word("chat:" + word)
    return word


def _plain_json(value: Any, room: int = _MAX_DEPTH) -> Any:
    # Free data is passed on, not calculated with: exact decimals in it become ordinary JSON numbers.
    if isinstance(value, Decimal):
        return float(value)
    # Before the descent, which would end in a RecursionError.
    if isinstance(value, dict | list) and not room:
        raise ValueError(f"must not be nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {name: _plain_json(part, room - 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain_json(part, room - 1) for part in value]
    return value


#: Any JSON value of reasonable depth, passed on as it is.
Json = Annotated[JsonValue, BeforeValidator(_plain_json)]

#: A user id as the contract has it; see :func:`~towpath.protocol.routes.check_user_id`.
UserId = Annotated[
    str,
    AfterValidator(check_user_id),
    Field(json_schema_extra={"minLength": 1, "maxLength": USER_ID_CHARACTERS}),
]

#: The name of a room, as people write it: any letters, no control characters, short enough to route.
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(_no_control_characters),
    AfterValidator(_fits_a_routing_key),
]

#: Free text that every database can store.
Text = Annotated[str, AfterValidator(_no_nul)]
