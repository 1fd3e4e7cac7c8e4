"""Sums that a reader can redo.

A sum is a formula over names: ``connections × asks ÷ 60``. It is worked out from figures as they are shown, rounding
included, so a reader can recalculate the page. Nothing here knows the meaning of the sums.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_SIGNS: Final = {"×": "*", "÷": "/", "−": "-"}
#: The figure where no number fits: it, and all that follows from it, cannot be.
IMPOSSIBLE: Final = math.nan
_SHOWN_IMPOSSIBLE: Final = "cannot be"


@dataclass(frozen=True)
class Given:
    """A figure that sums begin with, and where it is from."""

    name: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Sum:
    """A figure that follows from others.

    Attributes:
        name: Its name in later sums.
        formula: Names, numbers, ``+ − × ÷``, brackets and ``max(…, …)``.
        unit: Its unit.
        whole: Whether it is rounded up: there are no half machines.
    """

    name: str
    formula: str
    unit: str
    whole: bool = False


def shown(value: float) -> str:
    """A figure as the page has it: three digits that matter, or all those before the point."""
    if math.isnan(value):
        return _SHOWN_IMPOSSIBLE
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def as_shown(value: float) -> float:
    """A figure as readers of the page know it."""
    return value if math.isnan(value) else float(shown(value).replace(",", ""))


def work_out(sums: Sequence[Sum], given: Mapping[str, float]) -> dict[str, float]:
    """All sums in their order, with what they began with.

    To divide by zero or less gives :data:`IMPOSSIBLE`: then there is not enough of something, however much one takes.

    Raises:
        KeyError: A formula has a name that is not known by then.
        ValueError: A formula cannot be read.
    """
    known = {name: as_shown(value) for name, value in given.items()}
    for one in sums:
        value = evaluate(one.formula, known)
        # A whole number with an error in the last place must not be rounded up.
        known[one.name] = as_shown(math.ceil(value - 1e-9) if one.whole and not math.isnan(value) else value)
    return known


def evaluate(formula: str, known: Mapping[str, float]) -> float:
    """The value of a formula; see :func:`work_out`."""
    for sign, python in _SIGNS.items():
        formula = formula.replace(sign, python)
    try:
        tree = ast.parse(formula, mode="eval")
    except SyntaxError:
        raise ValueError(f"{formula!r} is not a formula") from None
    return _value(tree.body, known)


def _value(node: ast.expr, known: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return known[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, known) + _value(right, known)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, known) - _value(right, known)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, known) * _value(right, known)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            below = _value(right, known)
            return _value(left, known) / below if below > 0 else IMPOSSIBLE
        case ast.Call(func=ast.Name(id="max"), args=arguments):
            values = [_value(argument, known) for argument in arguments]
            return IMPOSSIBLE if any(map(math.isnan, values)) else max(values)
    raise ValueError(f"{ast.unparse(node)!r} has no place in a formula")
