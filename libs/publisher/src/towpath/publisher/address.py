"""The broker's address: one URL, which may name several hosts, ``amqp://user:password@one:5672,two/vhost``.

Guarantee: no option of an accepted address weakens TLS, and no error shows the password.
"""

from collections.abc import Sequence
from typing import Final

from yarl import URL

_FORM: Final = "amqp://user:password@host:5672/vhost, or amqps://; several hosts are separated by commas"


def hosts(url: str) -> Sequence[URL]:
    """One URL for each host, in their order.

    Raises:
        ValueError: It is not an address, or has an option. The text does not quote it.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("amqp", "amqps"):
        raise ValueError(f"the broker's address is not {_FORM}")
    end = min(at for mark in ("/", "?", "#", "") if (at := rest.find(mark) if mark else len(rest)) >= 0)
    account, sign, names = rest[:end].rpartition("@")
    try:
        found = [URL(f"{scheme}://{account}{sign}{name.strip()}{rest[end:]}") for name in names.split(",")]
    except ValueError:
        raise ValueError(f"the broker's address is not {_FORM}") from None
    if not all(one.host for one in found):
        raise ValueError(f"the broker's address names no host: {_FORM}")
    if any(option != "auth" for option in found[0].query):
        # The driver knows options that turn verification off.
        raise ValueError(
            "the broker's address has options behind the question mark; only 'auth' is taken: "
            "pass certificate files as ca, certificate and key"
        )
    return found


def account(url: URL) -> str | None:
    """The account that ``url`` logs in with; ``None`` if a certificate decides it (``?auth=external``)."""
    return None if url.query.get("auth", "plain").lower() != "plain" else url.user or "guest"


def shown(url: URL) -> str:
    """The address without its password, for errors and logs."""
    return str(url.with_user(None).with_query(None))
