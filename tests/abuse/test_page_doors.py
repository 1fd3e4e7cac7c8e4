"""The page's server: no other file than the page's, and no token of the demo for a foreign page."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from yarl import URL

from towpath.protocol.envelope import Envelope
from towpath.testkit.processes import free_port
from towpath.testkit.tokens import SECRET
from towpath.tools.demo_door import demo_hosts
from towpath.tools.token import sign
from towpath.tools.web import Demo, Site, serve_site

from .trial import Trial

pytestmark = pytest.mark.abuse_short

_PATHS: Final = tuple(
    f"/{prefix}{up * depth}{target}"
    for prefix in ("", "assets/")
    for up in ("../", "%2e%2e/", "..%2f", "..\\", "%2e%2e%5c", "....//", "%252e%252e/")
    for depth in (1, 4)
    for target in ("pyproject.toml", "etc/passwd")
)  # fmt: skip
_POLICY: Final = Path(__file__).parents[2] / "clients/web/public/content-security-policy.txt"
#: Headers of requests that come from a page of another site, or by another name than the demo's.
_FOREIGN: Final = (
    *({"Origin": origin} for origin in ("https://evil.example", "null", "", "file://", "http://demo.example.evil.example")),
    *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "anything")),
    *(
        {"Host": host, "Origin": f"http://{host}"}
        for host in (
            "rebound.example", "demo.example.rebound.example", "127.0.0.1.rebound.example", "192.0.2.7", "0.0.0.0",
            "localhost.", "user@127.0.0.1", "[::ffff:192.0.2.7]", "demo.example@rebound.example", "2130706433",
        )
    ),
    *({"Host": host} for host in ("rebound.example", "rebound.example#127.0.0.1", "rebound.example:80")),
    *({"Host": "demo.example", "Origin": origin} for origin in ("http://evil.example", "http://demo.example:81")),
    *({"Content-Type": form} for form in ("text/plain", "application/x-www-form-urlencoded")),
)  # fmt: skip


async def test_no_path_of_the_pages_server_leaves_its_folder(tmp_path: Path, trial: Trial) -> None:
    (tmp_path / "pyproject.toml").write_text("beside the page")
    async with (
        trial.door("a path of the page's server reads another file") as door,
        _a_page(tmp_path, None) as url,
        aiohttp.ClientSession() as http,
    ):
        for path in _PATHS:
            async with http.get(URL(f"{url}{path}", encoded=True)) as response:
                door.refused(response.status in (400, 403, 404), f"{path} is {response.status}")


async def test_no_foreign_page_gets_a_token_of_the_demo(tmp_path: Path, trial: Trial) -> None:
    published: list[Envelope] = []

    async def publish(event: Envelope) -> None:
        published.append(event)

    demo = Demo(
        lambda user, scope: sign(user, SECRET, scope=scope), publish, hosts=demo_hosts(["demo.example"])
    )
    async with (
        trial.door("a foreign page gets a token of the demo, or publishes its events") as door,
        _a_page(tmp_path, demo) as url,
        aiohttp.ClientSession() as http,
    ):
        for path, body in (("token", {"user": "ana"}), ("events", {"action": "order.paid", "data": {}})):
            for headers in _FOREIGN:
                async with http.post(f"{url}/demo/{path}", json=body, headers=headers) as response:
                    door.refused(response.status in (400, 403, 415), f"{headers} is {response.status}")
        door.expect(not published, f"an event was published: {published[:1]}")
        async with http.post(f"{url}/demo/token", json={"user": "ana"}, headers={"Origin": url}) as response:
            door.expect(response.status == 200, "its own page gets no token")


@asynccontextmanager
async def _a_page(folder: Path, demo: Demo | None) -> AsyncIterator[str]:
    """A page that is served, and its address."""
    page, port = folder / "page", free_port()
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("the page")
    shutil.copy(_POLICY, page)
    site = Site(page, ["ws://gateway/ws"], {"broker": "a broker"}, demo)
    async with serve_site(site, "127.0.0.1", port, option="--port"):
        yield f"http://127.0.0.1:{port}"
