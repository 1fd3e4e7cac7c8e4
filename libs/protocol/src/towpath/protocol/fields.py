"""Field types that payload models of several domains share."""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    PlainSerializer,
    StringConstraints,
)

from towpath.protocol.routes import check_user_id, encode_word

MAX_AMOUNT: Final = Decimal("9999999999999.99")
_CENT = Decimal("0.01")
#: Below what JSON readers on the way allow (pydantic's 200, the envelope around it included).
_MAX_DEPTH: Final = 100
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Payload(BaseModel):
    """``data`` of one action: strict about types, deaf to fields it does not know."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def _exact_decimal(value: Any) -> Decimal:
    # JSON numbers with a fraction arrive as Decimal already (messages.read_command), never as float.
    # Decimal() alone would read "1_0", " 5 " and digits of every script.
    readable = _NUMBER.fullmatch(value) if isinstance(value, str) else isinstance(value, int | Decimal)
    if not readable or isinstance(value, bool):
        raise ValueError('must be a decimal number such as 99.90 or "99.90"')
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"must lie between 0 and {MAX_AMOUNT}") from None
    if not amount.is_finite() or amount < 0 or amount > MAX_AMOUNT:
        raise ValueError(f"must lie between 0 and {MAX_AMOUNT}")
    if amount != (cents := amount.quantize(_CENT)):
        raise ValueError("must have at most two decimals")
    return cents + Decimal(0)  # no negative zero


def format_money(amount: Decimal) -> str:
    """An amount as it stands on the wire: two decimals, no exponent."""
    return f"{amount:.2f}"


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
    if isinstance(value, dict | list) and not room:
        raise ValueError(f"must not be nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {name: _plain_json(part, room - 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain_json(part, room - 1) for part in value]
    return value


#: Any JSON value of reasonable depth, passed on as it is.
Json = Annotated[JsonValue, BeforeValidator(_plain_json)]

#: An exact amount; two decimals at most, never a binary float.
Money = Annotated[Decimal, BeforeValidator(_exact_decimal), PlainSerializer(format_money, return_type=str)]

#: ISO 4217.
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]

#: A user id as the contract has it; see :func:`~towpath.protocol.routes.check_user_id`.
UserId = Annotated[str, AfterValidator(check_user_id)]

#: The name of a room, as people write it: any letters, no control characters, short enough to route.
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(_no_control_characters),
    AfterValidator(_fits_a_routing_key),
]

#: Free text that every database can store.
Text = Annotated[str, AfterValidator(_no_nul)]
