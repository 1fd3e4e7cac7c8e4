"""The page: files built from ``clients/web``, what the page must know, and the demo's two endpoints.

Guarantees: nothing is served from outside the page's folder; every answer has the page's policy
(:mod:`towpath.tools.page_policy`); a file that the build has compressed goes out compressed, to browsers that take
it; a file whose name has its hash is kept by browsers for good, and everything else is asked for again, by ``ETag``;
other sites get nothing from the demo's endpoints
(:mod:`towpath.tools.demo_door`). The sign-in by name alone is for demonstrations: it is off unless ``TOWPATH_DEMO``
is set, or ``--demo``.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from towpath.protocol.envelope import Envelope
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import read_object
from towpath.servicekit.runtime.listening import LISTEN_ERRORS, blames_port, cannot_listen
from towpath.tools.demo_door import host_of, problem, refusal
from towpath.tools.order_events import BadEvent, NotPublished, order_event
from towpath.tools.page_policy import headers, read_policy
from towpath.tools.ports import PortTaken
from towpath.tools.token import LIFETIME_SECONDS, BadUser
from towpath.tools.trouble import Trouble

_LARGEST_POST: Final = 64 * 1024
_LONGEST_SCOPE: Final = 500
_PAGE: Final = "clients/web/dist"
#: The build gives each file in there a name with its hash, so it never changes: RFC 8246.
_HASHED: Final = "/assets/"
_FOR_GOOD: Final = "public, max-age=31536000, immutable"


class PageMissing(Trouble):
    """The folder of the built page is not there."""

    status = 2


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's endpoints.

    Attributes:
        sign: A token for a user, with the scope that the page asks for: anyone may have any right, as anyone may be
            anyone. ``None`` for all domains. Raises :class:`~towpath.tools.token.BadUser`.
        publish: Publishes an order event as another backend; raises
            :class:`~towpath.tools.order_events.NotPublished`.
        hosts: Names by which browsers may reach it; see :mod:`towpath.tools.demo_door`.
    """

    sign: Callable[[str, str | None], str]
    publish: Callable[[Envelope], Awaitable[None]]
    hosts: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """The served content.

    Attributes:
        web_root: The folder ``clients/web/dist``.
        gateways: Addresses of the gateways' WebSockets.
        about: More that the page shows: ``broker`` and ``database``; may change while it is served.
        demo: ``None`` without sign-in by name alone.
    """

    web_root: Path
    gateways: list[str]
    about: dict[str, str] = field(default_factory=dict)
    demo: Demo | None = None


def web_folder() -> Path:
    """The built page: ``TOWPATH_WEB_ROOT``, or ``clients/web/dist`` of the repository around this file.

    Raises:
        PageMissing
    """
    if given := os.environ.get("TOWPATH_WEB_ROOT"):
        if (Path(given) / "index.html").is_file():
            return Path(given)
        raise PageMissing(f"TOWPATH_WEB_ROOT={given!a}: there is no index.html in it; name the built page")
    for parent in Path(__file__).resolve().parents:
        if (parent / _PAGE / "index.html").is_file():
            return parent / _PAGE
        if (parent / _PAGE).parent.is_dir():
            raise PageMissing("the page is not built yet: run `make page`")
    raise PageMissing(f"TOWPATH_WEB_ROOT is not set, and there is no {_PAGE} around this program; name it")


@asynccontextmanager
async def serve_site(site: Site, host: str, port: int, *, option: str) -> AsyncIterator[None]:
    """Serve ``site`` from entry to exit.

    Args:
        option: Where the port comes from, for the message when it is taken.

    Raises:
        PolicyMissing, PortTaken
    """
    app = web.Application(client_max_size=_LARGEST_POST)
    policy = read_policy(site.web_root)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers(policy, site.gateways, host_of(request)))
        if request.path.startswith(_HASHED) and response.status in (200, 206, 304):
            response.headers["Cache-Control"] = _FOR_GOOD

    app.on_response_prepare.append(add_headers)

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(site.web_root / "index.html")

    async def config(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "gateways": site.gateways,
                "broker": "",
                "database": "",
                **site.about,
                "demo": site.demo is not None,
            }
        )

    app.router.add_get("/", index)
    app.router.add_get("/config.json", config)
    if site.demo is not None:
        app.router.add_post("/demo/token", _token(site.demo))
        app.router.add_post("/demo/events", _events(site.demo))
    # A `.br` or `.gz` beside a file is sent instead of it: `FileResponse` of aiohttp.
    app.router.add_static("/", site.web_root)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except LISTEN_ERRORS as error:
            if isinstance(error, OSError) and blames_port(error):
                raise PortTaken(option, port, "the page", error) from None
            raise cannot_listen(error, host, port, host_setting="--host", port_setting=option) from None
        yield
    finally:
        await runner.cleanup()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _token(demo: Demo) -> Handler:
    async def token(request: web.Request) -> web.Response:
        if refused := refusal(request, demo.hosts):
            return refused
        try:
            body = read_object(await request.read())
            signed = demo.sign(_text(body, "user"), _scope(body))
        except (BadEnvelope, BadUser) as error:
            return problem(400, str(error))
        return web.json_response({"token": signed, "expires_in": LIFETIME_SECONDS})

    return token


def _events(demo: Demo) -> Handler:
    async def events(request: web.Request) -> web.Response:
        if refused := refusal(request, demo.hosts):
            return refused
        try:
            body = read_object(await request.read())
            data = body.get("data")
            if not isinstance(data, dict):
                raise BadEvent("data: must be an object")
            msg_id = _text(body, "msg_id") if "msg_id" in body else None
            event = order_event(_text(body, "action"), data, msg_id)
            await demo.publish(event)
        except (BadEnvelope, BadEvent) as error:
            return problem(400, str(error))
        except NotPublished as error:
            return problem(503, str(error))
        return web.json_response({"msg_id": event.msg_id})

    return events


def _scope(body: Mapping[str, Any]) -> str | None:
    if "scope" not in body:
        return None
    scope = _text(body, "scope")
    if len(scope) > _LONGEST_SCOPE:
        raise BadEnvelope(f"scope: has {len(scope)} letters, and may have {_LONGEST_SCOPE}")
    return scope


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadEnvelope(f"{name}: must be a text")
    return value
