"""The database's address, as people write it, and as SQLAlchemy takes it.

Guarantee: an address that passes says nothing about TLS, ``ssl=verify-full`` or ``ssl=disable``. libpq's words in
between encrypt, but take any certificate or any name for the server's: https://www.postgresql.org/docs/current/libpq-ssl.html
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlalchemy as sa

#: The one word that checks both the certificate and the name in it.
VERIFIED: Final = "verify-full"
_FORM: Final = "must be sqlite:///file.db or postgresql://user:password@host/database"
_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_TLS: Final = "ssl"
_OTHER_TLS: Final = ("ssl", "direct_tls", "tls")


def with_driver(value: str) -> str:
    """``value`` as a URL of SQLAlchemy with its driver.

    Raises:
        ValueError: It cannot be used. The message never quotes it.
    """
    scheme, separator, rest = value.partition("://")
    if scheme not in _DRIVERS or not separator:
        raise ValueError(_FORM)
    if scheme.startswith("sqlite"):
        if rest.partition("?")[0] in ("", "/", "/:memory:"):
            raise ValueError("names no file: sqlite:///file.db")
    else:
        _check_tls(f"{_DRIVERS[scheme]}://{rest}")
    return f"{_DRIVERS[scheme]}://{rest}"


def is_verified(url: "sa.URL") -> bool:
    """Whether connections to ``url`` are encrypted, and the server's certificate and name are verified."""
    return url.query.get(_TLS) == VERIFIED


def _check_tls(url: str) -> None:
    # Imported here: programs without a database start without it.
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError

    try:
        query = sa.make_url(url, keep_blank_values=True).query
    except (ArgumentError, ValueError):
        raise ValueError(_FORM) from None
    for option, word in query.items():
        if option == "sslmode":
            raise ValueError("must say ssl=verify-full instead of sslmode=…")
        if option != _TLS and option.lower().startswith(_OTHER_TLS):
            raise ValueError(
                "has an option about certificates; name them in TOWPATH_DATABASE_CA, TOWPATH_DATABASE_CERTIFICATE "
                "and TOWPATH_DATABASE_KEY"
            )
        if option == _TLS and word not in (VERIFIED, "disable"):
            raise ValueError(
                "must say ssl=verify-full, which verifies the server's certificate and name (or ssl=disable, on a "
                "private network)"
            )
