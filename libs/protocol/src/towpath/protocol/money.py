"""Money: exact amounts with as many decimals as ISO 4217 gives their currency. Never a binary float.

The list of currencies comes from the package ``iso4217``, which holds the table of the maintenance agency
(https://www.six-group.com/en/products-services/financial-information/data-standards.html). Codes without decimals
there, such as gold (``XAU``) and "no currency" (``XXX``), are not accepted: they are not used for payments.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import iso4217
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, StringConstraints

#: In minor units it fits a 64-bit integer, whatever the currency.
MAX_AMOUNT: Final = Decimal("9999999999999.99")
#: No currency has more: https://en.wikipedia.org/wiki/Unidad_de_Fomento
MAX_DECIMALS: Final = 4

_DECIMALS: Final[dict[str, int]] = {
    currency.code: currency.exponent for currency in iso4217.Currency if currency.exponent is not None
}
#: 1, 0.1, 0.01 …: the smallest amount with so many decimals.
_SMALLEST: Final = tuple(Decimal(1).scaleb(-decimals) for decimals in range(MAX_DECIMALS + 1))
_ZERO: Final = Decimal(0)
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class TooManyDecimals(ValueError):
    """The amount has more decimals than its currency."""


def is_currency(code: str) -> bool:
    """Whether ``code`` is a currency of ISO 4217 that has a number of decimals."""
    return code in _DECIMALS


def decimals_of(currency: str) -> int:
    """How many decimals a currency has, such as 2 for EUR, 0 for JPY, 3 for KWD.

    Raises:
        KeyError: There is no such currency.
    """
    return _DECIMALS[currency]


def written_with(amount: Decimal, decimals: int) -> Decimal:
    """The same amount with exactly that many decimals.

    Raises:
        TooManyDecimals: It has more of them that are not 0.
    """
    exact = amount.quantize(_SMALLEST[decimals])
    if exact != amount:
        raise TooManyDecimals(f"must have at most {decimals} decimals, but is {amount:f}")
    return exact


def decimals_in(amount: Decimal) -> int:
    """How many decimals an amount is written with."""
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int), "an amount is a number"
    return max(0, -exponent)


def format_money(amount: Decimal) -> str:
    """An amount in the form of the wire: with its decimals, without an exponent."""
    return f"{amount:f}"


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
    # Adding 0 takes away the sign of -0 and the exponent of 1e2.
    plain = amount + _ZERO
    if any(map(plain.same_quantum, _SMALLEST)):
        return plain
    if amount != (rounded := amount.quantize(_SMALLEST[MAX_DECIMALS])):
        raise ValueError(f"must have at most {MAX_DECIMALS} decimals")
    return rounded


def _known_currency(code: str) -> str:
    if code not in _DECIMALS:
        raise ValueError(f"there is no currency {code} in ISO 4217")
    return code


#: An exact amount, not negative; its currency says how many decimals it may have.
Money = Annotated[Decimal, BeforeValidator(_exact_decimal), PlainSerializer(format_money, return_type=str)]

#: A code of ISO 4217, such as ``EUR``.
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), AfterValidator(_known_currency)]
