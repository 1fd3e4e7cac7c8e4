"""A user at the page, in a browser window of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, expect

_TIMEOUT_MS = 15_000

#: Keeps what the connection went through, however short it was.
_WATCH_CONNECTION = """() => {
    const pill = document.querySelector('[data-testid="connection-state"]');
    window.connectionStates = [pill.dataset.state];
    new MutationObserver(() => window.connectionStates.push(pill.dataset.state))
        .observe(pill, {attributes: true, attributeFilter: ["data-state"]});
}"""


class Visitor:
    """One person at the page.

    Attributes:
        page: For what this class has no word for.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    @asynccontextmanager
    async def arrive(
        cls, browser: Browser, url: str, *, gateway: int = 0, **context: Any
    ) -> AsyncIterator["Visitor"]:
        """At the door. At the end the page must have had no uncaught error.

        Args:
            url: Of the page.
            gateway: Which of its gateways to try first.
            context: Of :meth:`playwright.async_api.Browser.new_context`.
        """
        options: dict[str, Any] = {
            "viewport": {"width": 1360, "height": 900},
            "reduced_motion": "reduce",
            **context,
        }
        window = await browser.new_context(**options)
        try:
            page = await window.new_page()
            page.set_default_timeout(_TIMEOUT_MS)
            expect.set_options(timeout=_TIMEOUT_MS)
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.goto(f"{url}?gateway={gateway}")
            yield cls(page)
            assert problems == []
        finally:
            await window.close()

    @classmethod
    @asynccontextmanager
    async def sign_in(
        cls, browser: Browser, url: str, user: str, *, gateway: int = 0, **context: Any
    ) -> AsyncIterator["Visitor"]:
        """Signed in, and connected; see :meth:`arrive`."""
        async with cls.arrive(browser, url, gateway=gateway, **context) as visitor:
            await visitor.get("name").fill(user)
            await visitor.get("sign-in").click()
            await expect(visitor.get("connection-state")).to_have_attribute("data-state", "open")
            await visitor.page.evaluate(_WATCH_CONNECTION)
            yield visitor

    def get(self, test_id: str) -> Locator:
        """The element with this ``data-testid``."""
        return self.page.get_by_test_id(test_id)

    async def joins(self, room: str) -> None:
        """Join a room, and open it."""
        await self.get("room-input").fill(room)
        await self.get("join-room").click()
        await expect(self.get("room-title")).to_contain_text(room)

    async def says(self, text: str) -> None:
        """Send a message to the open room; it need not have arrived."""
        await self.get("message-input").fill(text)
        await self.get("send-message").click()

    async def texts(self) -> list[str]:
        """The messages of the open room, as they stand there."""
        return await self.get("message").get_by_test_id("text").all_inner_texts()

    async def connection_states(self) -> list[str]:
        """The states of the connection since sign-in, each as often as it occurred."""
        states: list[str] = await self.page.evaluate("window.connectionStates")
        return [state for state, before in zip(states, [None, *states], strict=False) if state != before]
