"""Error texts for logs and for the headers of parked messages: the error and its location, without payload.

Database drivers, pydantic and Python itself quote the values that cause an error: the row that violates a constraint,
the text that is not a number. Such values are user content and must not be logged.

Guarantees: for a database error the text has its class, its code and the names of constraint, table and column,
never a value, a parameter or the DETAIL line; and the remedy, if the code of the service is the reason. For a model's
error it has the names of the fields; for Python's own value errors everything except quoted text. Errors of other
classes keep the text of their authors. Formatting never raises, whatever the error contains.
"""

import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import pydantic

_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
#: SQLAlchemy's own errors around those of asyncpg.
_WRAPPER: Final = "sqlalchemy.dialects.postgresql.asyncpg"
_LETTERS: Final = 500
#: Errors of Python that quote a value. Others (AttributeError, ImportError, OSError) quote names of code and files.
_QUOTING: Final = (ValueError, LookupError, ArithmeticError)
#: SQLSTATE classes whose first line quotes values too: data exceptions.
_VALUES: Final = ("22",)
#: A row with this key exists: https://www.sqlite.org/rescode.html#constraint_unique and
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNIQUE: Final = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505")
#: A table or a column does not exist. SQLite has no code for these.
_MISSING: Final = ("42P01", "42703")
_SQLITE_MISSING: Final = re.compile(r"no such (table|column)|has no column named")
_LOAD_FIRST: Final = "; the row exists: `load` of the unit of work must read it, so that `save` can update it"
_MIGRATE: Final = "; a migration that makes it is missing in the service's folder of migrations"
#: Maximum number of causes in a chain.
_CAUSES: Final = 10


def describe_error(error: BaseException, letters: int = _LETTERS) -> str:
    """``error`` in one line: its class and its text, without payload."""
    try:
        said = " ".join(_text(error).split())
    except Exception as another:
        said = f"(its text raised {type(another).__name__})"
    described = f"{type(error).__name__}: {said}"
    return described.encode("utf-8", "replace").decode()[:letters]


def traceback_text(error: BaseException) -> str:
    """The traceback of ``error`` and its causes, root cause first; errors as :func:`describe_error` shows them."""
    return "\n".join(_lines(error, set()))


def without_frames(error: BaseException) -> None:
    """Drop the tracebacks of ``error`` and its causes, once nothing shows them any more.

    A traceback refers to the frames of its callers, and these to what they hold: often to the error itself. Only the
    garbage collector frees such a cycle, and a program that is idle after a flood of refused messages runs it rarely.
    """
    link: BaseException | None = error
    for _ in range(_CAUSES):
        if link is None:
            return
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen and len(seen) < _CAUSES:
        yield from _lines(before, seen)
        yield "The above exception was the cause of, or was being handled during, the following:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield describe_error(error)
    if isinstance(error, BaseExceptionGroup) and len(seen) < _CAUSES:
        for part in error.exceptions:
            yield from _lines(part, seen)


def _text(error: BaseException) -> str:
    # Not imported: programs without a database start without it, and have none of its errors.
    database = sys.modules.get("sqlalchemy.exc")
    if database is not None and isinstance(error, database.StatementError):
        if isinstance(error, database.DBAPIError):
            return _of_driver(error.orig) if error.orig is not None else ""
        # Errors before the database sees the statement: a missing parameter, or an unsupported type.
        return describe_error(error.orig) if error.orig is not None else "a statement could not be built"
    if _is_of_driver(error):
        return _of_driver(error)
    if isinstance(error, pydantic.ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {_unquoted(one['msg'])}" for one in problems[:10]
        )
    if (
        isinstance(error, _QUOTING)
        and not isinstance(error, UnicodeError)
        and type(error).__module__ in ("builtins", "decimal")
    ):
        return _unquoted(str(error))
    return str(error)


def _is_of_driver(error: BaseException) -> bool:
    module = type(error).__module__
    return module.partition(".")[0] in ("asyncpg", "sqlite3") or module == _WRAPPER


def _of_driver(error: BaseException) -> str:
    """The text of a driver's error, without values."""
    state = getattr(error, "sqlstate", None)
    cause: Any = error
    if type(error).__module__ == _WRAPPER and error.__cause__ is not None:
        cause = error.__cause__
    first = (str(cause).splitlines() or [""])[0]
    return f"{_driver_text(state, cause, first)}{_remedy(error, first)}"


def _remedy(error: BaseException, first: str) -> str:
    codes = {str(getattr(error, name, "")) for name in ("sqlstate", "sqlite_errorname")}
    if codes & set(_UNIQUE):
        return _LOAD_FIRST
    is_sqlite = type(error).__module__.partition(".")[0] == "sqlite3"
    if codes & set(_MISSING) or (is_sqlite and _SQLITE_MISSING.search(first)):
        return _MIGRATE
    return ""


def _driver_text(state: object, cause: BaseException, first: str) -> str:
    if "query argument" in first:  # asyncpg could not encode a parameter, and quotes it.
        first = first.partition(": ")[0]
    if not isinstance(state, str):
        return _unquoted(first) if type(cause).__module__.startswith("asyncpg") else first
    if state.startswith(_VALUES):
        first = _unquoted(first)
    names = [
        f"{what} {name}"
        for what in ("constraint", "table", "column")
        if isinstance(name := getattr(cause, f"{what}_name", None), str)
    ]
    described = f"{type(cause).__name__} ({state}): {first}"
    return f"{described} [{', '.join(names)}]" if names else described


def _unquoted(text: str) -> str:
    return _QUOTED.sub("'…'", text)
