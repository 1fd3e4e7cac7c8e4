"""The limits that a browser sets to the page: the headers of every answer of the page's server.

Guarantees: no inline script or style runs, and no text becomes markup or code (Trusted Types); no other site frames
the page, holds a handle on its window, or is contacted by it. The policy belongs to the page and is in one file,
``content-security-policy.txt``: the build writes it into ``index.html``, for servers that send none, and this module
sends it with two additions that a page cannot make for itself: ``frame-ancestors``, and ``connect-src`` narrowed to
the hosts that the page connects to (``clients/web/src/model/gateways.ts`` has the same list).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from yarl import URL

from towpath.tools.trouble import Trouble

FILE: Final = "content-security-policy.txt"

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Server": "Towpath",  # without the versions of what it runs on
}
#: Taken from a link, `?gateway=`, on any port.
_THIS_MACHINE: Final = ("127.0.0.1", "localhost")
#: The hosts that a policy can name: not IPv6 addresses. https://www.w3.org/TR/CSP3/#grammardef-host-source
_NAMEABLE: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


class PolicyMissing(Trouble):
    """The built page has no policy."""

    status = 2


def read_policy(folder: Path) -> dict[str, str]:
    """The policy of the built page: its directives in order, with their sources.

    Raises:
        PolicyMissing
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PolicyMissing(
            f"{folder}: there is no {FILE} beside the page ({error.strerror}); build it again: `make page`"
        ) from None
    parts = [line.strip().partition(" ") for line in lines if line.strip()]
    return {directive: sources for directive, _, sources in parts}


def headers(policy: Mapping[str, str], gateways: Sequence[str], host: str | None) -> dict[str, str]:
    """The headers of one answer.

    Args:
        gateways: Addresses of the gateways' WebSockets.
        host: The name by which the browser reached the page.
    """
    sent = {
        **policy,
        "connect-src": _connect_sources([URL(gateway).host for gateway in gateways] + [host]),
        "frame-ancestors": "'none'",
    }
    directives = "; ".join(f"{directive} {sources}" for directive, sources in sent.items())
    return {"Content-Security-Policy": directives, **_HEADERS}


def _connect_sources(hosts: Sequence[str | None]) -> str:
    known = dict.fromkeys([*_THIS_MACHINE, *filter(None, hosts)])
    if not all(map(_NAMEABLE.fullmatch, known)):
        return "'self' ws: wss:"
    return " ".join(["'self'", *(f"{scheme}://{host}:*" for host in known for scheme in ("ws", "wss"))])
