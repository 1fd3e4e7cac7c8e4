"""The price of an order, as far as it is known, and its refunds. No I/O.

Guarantees: amount and currency are set once, and never from incomplete facts; refunds add up to at most the amount.
A price is
immutable: a refused change has no effect.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from towpath.protocol.errors import Conflict, InvalidData
from towpath.protocol.money import (
    MAX_AMOUNT,
    TooManyDecimals,
    decimals_in,
    decimals_of,
    format_money,
    written_with,
)
from towpath.protocol.orders import DEFAULT_CURRENCY

#: Decimals of an amount while its currency is not known; more if the amount has more.
_USUAL_DECIMALS: Final = 2


class CurrencyDiffers(Conflict):
    """A needed amount is in another currency than the order."""


class TooMuchRefunded(Conflict):
    """A refund exceeds the rest of the order's amount."""


class NothingRefunded(InvalidData):
    """A refund of 0."""


class WrongDecimals(InvalidData):
    """An amount has more decimals than the order's currency."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of an order, as far as it is known.

    Attributes:
        decimals: Number of decimals of all amounts of the order. The order keeps them, even if ISO 4217 changes.
        refunded: The sum of all refunds whose amounts are known; ``None`` without one.
        rest_is_refunded: Whether the whole rest was refunded before the amount was known.
    """

    amount: Decimal | None = None
    currency: str | None = None
    decimals: int | None = None
    refunded: Decimal | None = None
    rest_is_refunded: bool = False

    @classmethod
    def of(cls, amount: Decimal, currency: str) -> "Price":
        """The price of an order whose amount and currency are known.

        Raises:
            TooManyDecimals
        """
        decimals = decimals_of(currency)
        return cls(written_with(amount, decimals), currency, decimals)

    def learning(self, amount: Decimal | None, currency: str | None, *, of_creation: bool) -> "Price":
        """This price plus the unknown parts that an event adds.

        ``amount`` without ``currency`` is in the order's currency; the one that an order is created with is in USD
        by default. ``currency`` alone says nothing, unless the order is created with it.

        Raises:
            CurrencyDiffers, TooMuchRefunded, WrongDecimals
        """
        self._check(amount, currency)
        # A currency alone is ignored: it would turn 9.99 USD into 9.99 JPY (docs/adr/0018).
        if amount is None and not of_creation:
            return self
        # Only an amount that is needed can conflict; a later one is ignored.
        if self.amount is None and amount is not None:
            self._check_currency(currency)
        known = self.amount if self.amount is not None else amount
        if currency is None and of_creation and known is not None:
            currency = DEFAULT_CURRENCY
        return self._with(known, currency, self.refunded)

    def refunding(
        self, amount: Decimal | None, currency: str | None, *, is_first: bool
    ) -> tuple["Price", Decimal | None] | None:
        """This price after one more refund, and the amount of that refund.

        The amount is ``None`` for the rest of an amount that is not known yet. The result is ``None`` where nothing
        is left to be refunded.

        Args:
            amount: ``None`` for the whole rest.
            is_first: Whether it is the order's first refund: that of an order of 0.00 counts, too.

        Raises:
            CurrencyDiffers, NothingRefunded, TooMuchRefunded, WrongDecimals
        """
        self._check(amount, currency)
        if amount is None:
            return self._refunding_rest(is_first=is_first)
        self._check_currency(currency)
        if self.rest_is_refunded:
            raise TooMuchRefunded(f"A refund of {format_money(amount)}: nothing is left to be refunded.")
        if not amount and not (is_first and self.amount == 0):
            raise NothingRefunded(f"A refund of {format_money(amount)} pays nothing back.")
        after = self._with(self.amount, currency, (self.refunded or Decimal(0)) + amount)
        assert after.decimals is not None, "an amount has decimals"
        return after, written_with(amount, after.decimals)

    def _refunding_rest(self, *, is_first: bool) -> tuple["Price", Decimal | None] | None:
        if self.amount is None:
            return None if self.rest_is_refunded else (replace(self, rest_is_refunded=True), None)
        left = self.amount - (self.refunded or Decimal(0))
        # Two backends may report the same full refund, which must not park the second event (docs/adr/0018).
        if not left and not is_first:
            return None
        return replace(self, refunded=self.amount), left

    def _with(self, amount: Decimal | None, currency: str | None, refunded: Decimal | None) -> "Price":
        # The decimals of the order, not those that ISO 4217 has today: a new list must not change an old price.
        if self.currency is not None:
            currency, decimals = self.currency, self.decimals
        elif currency is not None:
            decimals = decimals_of(currency)
        else:
            amounts = [one for one in (amount, refunded) if one is not None]
            decimals = max(_USUAL_DECIMALS, *map(decimals_in, amounts)) if amounts else None
        if decimals is not None:
            amount = None if amount is None else _written(amount, decimals)
            refunded = None if refunded is None else _written(refunded, decimals)
        # While the amount is unknown, the largest possible one is the bound.
        if refunded is not None and refunded > (MAX_AMOUNT if amount is None else amount):
            whole = "all orders may cost" if amount is None else f"the order costs, {format_money(amount)}"
            raise TooMuchRefunded(f"Refunds of {format_money(refunded)} are more than {whole}.")
        rest_is_refunded = self.rest_is_refunded and amount is None
        if self.rest_is_refunded and amount is not None:
            # The whole rest was refunded before: now its amount is known.
            refunded = amount
        return Price(amount, currency, decimals, refunded, rest_is_refunded)

    def _check(self, amount: Decimal | None, currency: str | None) -> None:
        # With a currency its model has checked it.
        if (
            amount is not None
            and currency is None
            and self.currency is not None
            and self.decimals is not None
        ):
            _written(amount, self.decimals)

    def _check_currency(self, currency: str | None) -> None:
        if currency is not None and self.currency is not None and currency != self.currency:
            raise CurrencyDiffers(f"The amount is in {currency}, the order in {self.currency}.")


def _written(amount: Decimal, decimals: int) -> Decimal:
    try:
        return written_with(amount, decimals)
    except TooManyDecimals as error:
        raise WrongDecimals(f"amount: {error}.") from None
