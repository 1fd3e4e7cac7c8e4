"""The broker's address: one URL, which may name several hosts.

``amqp://user:password@one:5672,two:5673,three/vhost`` names three nodes of one cluster. User, password, virtual host
and options are the same for all; a host without a port has the usual one.

Guarantee: no option of an address that passes :func:`hosts` weakens a connection. The driver has such options
(``no_verify_ssl``), so only known ones are accepted.
"""

from typing import Final
from urllib.parse import urlencode

from yarl import URL

FORM: Final = "amqp://user:password@host:port/vhost"

_SCHEMES: Final = ("amqp", "amqps", "memory")
_FILES: Final = ("cafile", "capath", "certfile", "keyfile")
#: Those that aiormq reads, without `no_verify_ssl` and `cadata`: https://docs.aio-pika.com/en/latest/quick-start.html
_OPTIONS: Final = ("auth", *_FILES, "heartbeat", "name", "timeout")
#: Options, in part of other drivers, by which people mean "without verification".
_WEAKENING: Final = ("no_verify_ssl", "verify", "insecure", "ssl", "tls")


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
    urls = [
        _host(f"{scheme}://{who}{sign}{name.strip()}{rest[end:]}", f"host {number} of {len(several)}: ")
        for number, name in enumerate(several, 1)
    ]
    _check_options(urls[0])
    return urls


def with_files(url: str, *, ca: str | None, certificate: str | None, key: str | None) -> str:
    """``url`` with the names of certificate files as options, which the link reads at each connect.

    Raises:
        ValueError: The address is not ``amqps://``, or names such files itself.
    """
    files = {"cafile": ca, "certfile": certificate, "keyfile": key}
    options = {name: path for name, path in files.items() if path}
    if not options:
        return url
    first = hosts(url)[0]
    if first.scheme != "amqps":
        raise ValueError("is not encrypted, but certificates are set: use amqps://")
    if any(option in first.query for option in _FILES):
        raise ValueError("names certificate files, and so do settings of their own: keep the settings")
    before, sign, fragment = url.partition("#")
    return f"{before}{'&' if '?' in before else '?'}{urlencode(options)}{sign}{fragment}"


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


def _check_options(url: URL) -> None:
    for option in url.query:
        word = option.lower()
        if word.startswith(_WEAKENING):
            raise ValueError(
                "has an option about verification; certificates are always verified, and a private authority is "
                "named by TOWPATH_AMQP_CA"
            )
        if option not in _OPTIONS:  # Not quoted: it may be a part of a password with a question mark.
            raise ValueError(
                f"has an unknown option behind the question mark; known are {', '.join(_OPTIONS)}"
            )
        if option in _FILES and url.scheme != "amqps":
            raise ValueError("names certificate files, but is not encrypted: use amqps://")
