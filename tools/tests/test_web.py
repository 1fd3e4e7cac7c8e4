"""The page's server: what it serves, and to whom."""

import html
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from yarl import URL

from towpath.protocol import messages
from towpath.protocol.envelope import Envelope
from towpath.protocol.routes import EVENTS
from towpath.servicekit.broker.interface import Binding, Inbox
from towpath.servicekit.broker.memory import MemoryBroker, MemoryHub
from towpath.servicekit.runtime.settings import BadSetting
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.tokens import SECRET
from towpath.tools import page_policy
from towpath.tools.demo_door import demo_hosts
from towpath.tools.order_events import exchanges, publish
from towpath.tools.page_policy import PolicyMissing, read_policy
from towpath.tools.token import sign
from towpath.tools.web import Demo, PageMissing, Site, serve_site, web_folder


class Page:
    """A served page, and a browser of sorts."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def get(self, path: str) -> tuple[int, str, Mapping[str, str]]:
        async with self._http.get(URL(self.url + path, encoded=True)) as response:
            return response.status, await response.text(), response.headers

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.post(self.url + path, json=body, headers=named) as response:
            return response.status, await response.json()


@asynccontextmanager
async def a_page(
    demo: Demo | None, *, listens: str = "127.0.0.1", reached: str = "127.0.0.1"
) -> AsyncIterator[Page]:
    port = free_port()
    site = Site(web_folder(), ["ws://gateway/ws"], {"broker": "a broker"}, demo)
    async with serve_site(site, listens, port, option="--port"), aiohttp.ClientSession() as http:
        yield Page(f"http://{reached}:{port}", http)


def sign_here(user: str, scope: str | None) -> str:
    return sign(user, SECRET, scope=scope)


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryHub().connect(name="demo-backend") as broker:
        await broker.declare(exchanges())
        yield broker


@pytest.fixture
async def page(broker: MemoryBroker) -> AsyncIterator[Page]:
    async with a_page(Demo(sign_here, partial(publish, broker))) as page:
        yield page


#: As https://www.w3.org/TR/CSP3/ and https://www.w3.org/TR/trusted-types/ have it: nothing that is not named.
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self' ws://127.0.0.1:* wss://127.0.0.1:* ws://localhost:* wss://localhost:* "
    "ws://gateway:* wss://gateway:*",
    "base-uri": "'none'",
    "form-action": "'self'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
    "frame-ancestors": "'none'",
}
FOR_GOOD = "public, max-age=31536000, immutable"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Server": "Towpath",
}


def policy_of(headers: Mapping[str, str]) -> dict[str, str]:
    parts = [part.partition(" ") for part in headers["Content-Security-Policy"].split("; ")]
    return {directive: sources for directive, _, sources in parts}


async def test_the_page_and_its_server_have_one_policy(page: Page) -> None:
    """In the page all but what the header alone can say, and `connect-src` for any gateway."""
    _, index, _ = await page.get("/")
    (built,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', index)
    assert policy_of({"Content-Security-Policy": html.unescape(built)}) == {
        directive: "'self' ws: wss:" if directive == "connect-src" else sources
        for directive, sources in POLICY.items()
        if directive != "frame-ancestors"
    }


def test_the_page_connects_to_its_gateways_and_to_this_machine_only() -> None:
    def sources(gateways: list[str], host: str | None) -> str:
        return policy_of(page_policy.headers({}, gateways, host))["connect-src"]

    assert sources([], None).split() == [
        "'self'",
        *("ws://127.0.0.1:*", "wss://127.0.0.1:*", "ws://localhost:*", "wss://localhost:*"),
    ]
    assert "wss://chat.example:*" in sources(["wss://chat.example/ws"], "page.example")
    assert "ws://page.example:*" in sources(["wss://chat.example/ws"], "page.example")
    # No policy can name an IPv6 address, and nothing that a client sends becomes a directive.
    assert sources(["ws://[::1]:8080/ws"], None) == "'self' ws: wss:"
    assert sources([], "x; script-src *") == "'self' ws: wss:"


def test_a_page_without_its_policy_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyMissing, match=r"no content-security-policy\.txt beside the page .* `make page`"
    ):
        read_policy(tmp_path)


async def test_it_serves_the_page_and_its_configuration(page: Page) -> None:
    _, index, _ = await page.get("/")
    files = [f"/{name}" for name in re.findall(r'(?:src|href)="\./([^"]+)"', index)]
    assert "<title>Towpath" in index
    assert any(name.endswith(".js") for name in files)
    for path in ("/", *files):
        status, _, headers = await page.get(path)
        assert status == 200
        kept = {"Cache-Control": FOR_GOOD} if path.startswith("/assets/") else {}
        assert headers.items() >= {**HEADERS, **kept}.items()
        assert policy_of(headers) == POLICY
    _, config, _ = await page.get("/config.json")
    assert messages.read_object(config.encode()) == {
        "gateways": ["ws://gateway/ws"],
        "broker": "a broker",
        "database": "",
        "demo": True,
    }


async def test_texts_go_out_compressed_and_a_second_visit_loads_nothing_again(page: Page) -> None:
    _, index, _ = await page.get("/")
    (script,) = re.findall(r'src="\./(assets/[^"]+\.js)"', index)
    sizes = {}
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        for encoding in ("br", "gzip", "identity"):
            asked = {"Accept-Encoding": encoding}
            async with http.get(f"{page.url}/{script}", headers=asked) as response:
                assert response.headers.get("Content-Encoding", "identity") == encoding
                assert response.headers.get("Vary") == (None if encoding == "identity" else "Accept-Encoding")
                assert response.content_type.endswith("/javascript")
                sizes[encoding] = len(await response.read())
        for path in ("/", f"/{script}"):
            async with http.get(page.url + path, headers={"Accept-Encoding": "br"}) as response:
                known = {"Accept-Encoding": "br", "If-None-Match": response.headers["ETag"]}
            async with http.get(page.url + path, headers=known) as response:
                assert (response.status, await response.read()) == (304, b"")
    assert sizes["br"] < sizes["gzip"] < 0.4 * sizes["identity"]


async def test_a_file_that_is_not_there_is_asked_for_again(page: Page) -> None:
    """After an update an open window may ask for a file that is gone, and for it again when it is back."""
    status, _, headers = await page.get("/assets/index-00000000.js")
    assert (status, headers["Cache-Control"]) == (404, "no-cache")


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/pyproject.toml", "/assets/../../package.json", "/x"]
)
async def test_it_serves_nothing_else(page: Page, path: str) -> None:
    status, _, headers = await page.get(path)
    assert status in (403, 404)
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_name_gets_a_token_for_an_hour(page: Page) -> None:
    status, answer = await page.post("/demo/token", {"user": "Zoë"}, Origin=page.url)
    assert (status, answer["expires_in"]) == (200, 3600)
    claims = jwt.decode(answer["token"], SECRET, algorithms=["HS256"], audience="towpath")
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("Zoë", 3600)


async def test_a_token_has_the_rights_that_the_page_asks_for(page: Page) -> None:
    _, answer = await page.post("/demo/token", {"user": "ana", "scope": "chat inventory:write"})
    claims = jwt.decode(answer["token"], SECRET, algorithms=["HS256"], audience="towpath")
    assert claims["scope"] == "chat inventory:write"
    for scope in (7, "x" * 501):
        status, answer = await page.post("/demo/token", {"user": "ana", "scope": scope})
        assert (status, list(answer)) == (400, ["error"])


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", 7, None, "\ud800"])
async def test_a_bad_name_gets_none(page: Page, user: object) -> None:
    status, answer = await page.post("/demo/token", {"user": user})
    assert (status, list(answer)) == (400, ["error"])


async def test_an_event_is_published_unchanged(page: Page, broker: MemoryBroker) -> None:
    inbox = Inbox(name="orders", bindings=[Binding(EVENTS, "order.*")])
    data = {"order_id": "O1", "user_id": "ana", "amount": "9.90", "more": [1.5]}
    async with broker.subscribe(inbox, prefetch=1) as deliveries:
        status, answer = await page.post("/demo/events", {"action": "order.paid", "data": data})
        delivery = await anext(deliveries)
        delivery.ack()
    envelope = messages.read_object(delivery.body)
    assert (status, answer) == (200, {"msg_id": envelope["msg_id"]})
    assert (envelope["action"], delivery.routing_key, delivery.app_id) == (
        "order.paid",
        "order.paid",
        "demo-backend",
    )
    assert envelope["data"] == data


@pytest.mark.parametrize(
    "body",
    [
        {"action": "order.paid"},
        {"action": "order.paid", "data": {"user_id": "ana"}},
        {"action": "order.paid", "data": {"order_id": "O1"}},
        {"action": "order.eaten", "data": {"order_id": "O1"}},
        {"action": "chat.message", "data": {"order_id": "O1"}},
        {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}, "msg_id": "a/b"},
        [],
    ],
)
async def test_a_bad_event_is_refused(page: Page, body: object) -> None:
    status, answer = await page.post("/demo/events", body)
    assert (status, list(answer)) == (400, ["error"])


async def test_without_a_broker_events_are_unavailable() -> None:
    hub = MemoryHub()
    async with hub.connect(name="demo-backend") as broker:
        await broker.declare(exchanges())
        hub.stop()
        async with a_page(Demo(sign_here, partial(publish, broker))) as page:
            status, answer = await page.post(
                "/demo/events", {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}}
            )
    assert (status, list(answer)) == (503, ["error"])


def own_address() -> str:
    """An address of this machine, not of loopback where it has another one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


#: `{own}` is the address of this machine.
@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("127.0.0.1", "http://127.0.0.1", True),
        ("localhost:8000", "http://localhost:8000", True),
        ("LOCALHOST:8000", "http://localhost:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.1", None, True),
        ("{own}:8000", "http://{own}:8000", True),
        ("demo.example", "http://demo.example", True),
        ("Demo.Example:8443", "https://demo.example:8443", True),
        ("demo.example", None, True),
        ("rebound.example", "http://rebound.example", False),
        ("rebound.example", None, False),
        ("demo.example.rebound.example", "http://demo.example.rebound.example", False),
        ("127.0.0.1.rebound.example", "http://127.0.0.1.rebound.example", False),
        ("192.0.2.7", "http://192.0.2.7", False),
        ("0.0.0.0", "http://0.0.0.0", False),
        ("localhost.", "http://localhost.", False),
        ("user@127.0.0.1", "http://user@127.0.0.1", False),
        ("rebound.example#127.0.0.1", None, False),
        ("", None, False),
        ("demo.example", "http://elsewhere.example", False),
        ("demo.example", "http://demo.example:8000", False),
        ("demo.example", "ftp://demo.example", False),
        ("demo.example", "demo.example", False),
        ("demo.example", "null", False),
        ("demo.example", "", False),
        ("demo.example", "http://demo.example.elsewhere.example", False),
    ],
)
@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
async def test_the_demo_answers_by_its_own_names_and_to_its_own_page_wherever_it_listens(
    listens: str, host: str, origin: str | None, welcome: bool
) -> None:
    own = "127.0.0.1" if listens == "127.0.0.1" else own_address()

    async def publish_nothing(_: Envelope) -> None:
        raise AssertionError("an event was published")

    demo = Demo(sign_here, publish_nothing, hosts=demo_hosts(["Demo.example, other.example"]))
    async with a_page(demo, listens=listens, reached=own) as page:
        headers = {"Host": host.format(own=own)}
        if origin is not None:
            headers["Origin"] = origin.format(own=own)
        status, answer = await page.post("/demo/token", {"user": "ana"}, **headers)
        assert (status, list(answer)) == ((200, ["token", "expires_in"]) if welcome else (403, ["error"]))
        if not welcome:
            assert (await page.post("/demo/events", {}, **headers))[0] == 403


@pytest.mark.parametrize(
    "name", ["https://demo.example", "demo.example:8000", "demo.example/x", "*", "a b", "a@b"]
)
def test_a_name_of_the_demo_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(BadSetting, match=r"--demo-host=.*: must be a host as browsers show it"):
        demo_hosts([f"demo.example,{name}"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "rebound.example", "Origin": "http://rebound.example"},
    ],
)
async def test_other_sites_get_nothing(page: Page, headers: dict[str, str]) -> None:
    status, answer = await page.post("/demo/token", {"user": "ana"}, **headers)
    assert (status, list(answer)) == (403, ["error"])


async def test_a_form_gets_nothing(page: Page) -> None:
    status, _ = await page.post("/demo/token", {"user": "ana"}, Content_Type="text/plain")
    assert status == 415


async def test_without_the_demo_there_are_no_tokens() -> None:
    async with a_page(None) as page:
        assert (await page.get("/config.json"))[1].endswith('"demo": false}')
        async with aiohttp.ClientSession() as http, http.post(f"{page.url}/demo/token", json={}) as response:
            assert response.status == 405


def test_a_missing_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_WEB_ROOT", str(tmp_path))
    with pytest.raises(PageMissing, match=r"there is no index\.html in it; name the built page"):
        web_folder()


async def test_the_page_can_be_served_by_a_separate_program(processes: Processes) -> None:
    port = free_port()
    process = processes.launch(
        "towpath",
        "web",
        "--gateway",
        "ws://a/ws",
        web_gateways="ws://b/ws",
        web_port=port,
        demo="true",
        auth_secret=SECRET,
        amqp_url=f"amqp://127.0.0.1:{free_port()}/",
        database_url="postgresql://u:p@db/towpath",
    )
    await eventually(lambda: "serving" in process.output)
    async with aiohttp.ClientSession() as http:
        page = Page(f"http://127.0.0.1:{port}", http)
        config = messages.read_object((await page.get("/config.json"))[1].encode())
        assert config == {
            "gateways": ["ws://a/ws"],
            "broker": "",
            "database": "PostgreSQL at db:5432/towpath",
            "demo": True,
        }
        assert (await page.post("/demo/token", {"user": "ana"}))[0] == 200
        event = {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}}
        assert (await page.post("/demo/events", event))[0] == 503
    assert await process.terminate() == 0
