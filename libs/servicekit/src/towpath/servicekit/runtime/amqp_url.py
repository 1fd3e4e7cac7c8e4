"""The broker's address: one URL, which may name several hosts.

``amqp://user:password@one:5672,two:5673,three/vhost`` names three nodes of one cluster. User, password, virtual host
and options are the same for all; a host without a port has the usual one.
"""

from typing import Final

from yarl import URL

FORM: Final = "amqp://user:password@host:port/vhost"

_SCHEMES: Final = ("amqp", "amqps", "memory")


def hosts(url: str) -> list[URL]:
    """One URL for each host of ``url``, in their order; the memory broker's is one.

    Raises:
        ValueError: The address is not valid. The message gives the reason and never quotes the address, because the
            invalid part may be the password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator:
        raise ValueError(f"must be {FORM} (or amqps://, or memory://)")
    if scheme == "memory":
        return [URL(url)]
    if "://" in rest.partition("?")[0]:
        raise ValueError(
            "is several addresses: separate hosts by commas, amqp://user:password@one,two,three/vhost"
        )
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    who, sign, names = rest[:end].rpartition("@")
    several = names.split(",")
    return [
        _host(f"{scheme}://{who}{sign}{name.strip()}{rest[end:]}", f"host {number} of {len(several)}: ")
        for number, name in enumerate(several, 1)
    ]


def account(url: str) -> str | None:
    """The account that ``url`` logs in with; ``None`` if something else decides it (``auth=external``)."""
    first = hosts(url)[0]
    if first.scheme == "memory" or first.query.get("auth", "plain").lower() != "plain":
        return None
    return first.user or "guest"


def shown(url: URL) -> str:
    """The address of one host for logs and errors: without user, password and options."""
    return str(url.with_user(None).with_query(None))


def _host(url: str, which: str) -> URL:
    which = "" if which == "host 1 of 1: " else which
    try:
        parsed = URL(url)
    except ValueError:
        raise ValueError(f"{which}is not an address: {FORM}; separate several hosts by commas") from None
    if not parsed.host:
        raise ValueError(f"{which}names no host: {FORM}")
    return parsed
