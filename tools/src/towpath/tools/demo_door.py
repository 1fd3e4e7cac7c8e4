"""The door of the demo's endpoints: which requests it lets in.

Guarantees: a page of another site gets nothing, whatever address the server listens on. Not by a form (JSON only),
not by CORS (``Origin`` and ``Sec-Fetch-Site``), and not by DNS rebinding, where an attacker's name is pointed to this
server so that the foreign page looks like its own: the name in ``Host`` must be one of this machine, the address that
the request arrived at, or one that the operator has named.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final

from aiohttp import hdrs, web
from yarl import URL

from towpath.servicekit.runtime.settings import BadSetting

DEMO_HOSTS: Final = "--demo-host"
#: In the form that browsers send: an international name in its ASCII form.
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
#: Of what a stranger sent, in an answer.
_SHOWN: Final = 70


def demo_hosts(given: Iterable[str]) -> frozenset[str]:
    """The names in ``given``, each of which may hold several, separated by commas.

    Raises:
        BadSetting: One is not a host's name or address.
    """
    names = [name.strip().lower() for text in given for name in text.split(",")]
    for name in filter(None, names):
        if not (_NAME.fullmatch(name) or _is_address(name)):
            raise BadSetting(
                DEMO_HOSTS, name, "must be a host as browsers show it, such as demo.example; no port, no path"
            )
    return frozenset(filter(None, names))


def refusal(request: web.Request, hosts: Collection[str]) -> web.Response | None:
    """The answer to a request that is refused; ``None`` when it is welcome.

    Args:
        hosts: The names of :func:`demo_hosts`.
    """
    if request.content_type != "application/json":
        return problem(415, f"content type {request.content_type[:_SHOWN]!a}: send application/json")
    host = request.headers.get(hdrs.HOST, "")
    origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site", "same-origin")
    own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
    if (origin is not None and origin.lower() not in own) or site not in ("same-origin", "none"):
        return problem(403, f"origin {(origin or site)[:_SHOWN]!a}: other sites may not do this")
    name = host_of(request)
    if name is None or not (_is_loopback(name) or name in hosts or name == _arrived_at(request)):
        return problem(
            403,
            f"host {host[:_SHOWN]!a}: the demo does not know this name; use 127.0.0.1 or localhost on its "
            "machine, or start it with TOWPATH_DEMO_HOSTS set to the name",
        )
    return None


def host_of(request: web.Request) -> str | None:
    """The host by which the client reached this server, without the port; ``None`` if it sent nothing like one."""
    return _host_in(request.headers.get(hdrs.HOST, ""))


def _host_in(authority: str) -> str | None:
    try:
        url = URL(f"http://{authority}")
        # Nothing but a host and a port: no user, no path.
        is_plain = url.raw_authority.lower() == authority.lower() and url.raw_user is None
        return url.raw_host if is_plain else None
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _arrived_at(request: web.Request) -> str | None:
    """The address of this machine that the client connected to."""
    socket = request.transport.get_extra_info("sockname") if request.transport else None
    if not isinstance(socket, tuple):
        return None
    address = ip_address(str(socket[0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def problem(status: int, message: str) -> web.Response:
    """The answer to a request that gets nothing, as the page shows it."""
    return web.json_response({"error": message}, status=status)
