"""The tutorial "Your own service": its commands and files, and what it says one sees, in one walk.

Its last step, the wheels, is run by tests/test_wheels.py.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import async_playwright, expect

from towpath.testkit.bare_page import bare_page
from towpath.testkit.eventually import eventually
from towpath.testkit.ports import first_of_free_ports, free_port
from towpath.testkit.rabbitmq import Rabbit

from .snippets import ROOT, Block, Play, Terminal, blocks_of, looks_like, run, section

TUTORIAL = (ROOT / "docs/tutorial/your-own-service.md").read_text()
MAKE, RUN, ASK, PAGE, CHANGE, STORE, CALL, OUTSIDE = re.findall(r"^## (\d\. .*)$", TUTORIAL, re.M)


class Walk:
    """A reader who follows the tutorial.

    Attributes:
        folder: In the role of the repository's folder; ``../own`` is beside it.
        settings: Of `make run`, and what separates it from other runs.
    """

    def __init__(self, folder: Path, amqp_url: str) -> None:
        self.folder = folder / "towpath"
        self.own = folder / "own"
        self.folder.mkdir()
        for shared in (".venv", "scripts", "clients"):
            (self.folder / shared).symlink_to(ROOT / shared)
        self._ports = {port: str(free_port()) for port in ("8000", "8001", "8002", "8080", "8090")}
        self.settings = {
            "TOWPATH_AMQP_URL": amqp_url,
            "TOWPATH_ADMIN_PORT": str(first_of_free_ports()),
            "TOWPATH_WEB_ROOT": str(bare_page(folder / "web")),
            "TOWPATH_ALLOWED_ORIGINS": f"http://127.0.0.1:{self._ports['8001']}",
        }

    def elsewhere(self, text: str) -> str:
        """``text`` with ports that are free."""
        return re.sub(r"\b\d{4}\b", lambda port: self._ports.get(port[0], port[0]), text)

    def blocks(self, step: str) -> Sequence[Block]:
        return [
            Block(one.language, one.name, self.elsewhere(one.text))
            for one in blocks_of(section(TUTORIAL, step))
        ]

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self._ports['8001']}"

    def terminal(self, script: str) -> contextlib.AbstractAsyncContextManager[Terminal]:
        return Terminal.open(script, folder=self.folder)

    def dev(self, start: str) -> contextlib.AbstractAsyncContextManager[Terminal]:
        """The first terminal."""
        ports = self.elsewhere("--port 8080 --web-port 8000 --ingress-port 8090")
        script = re.sub(
            r'^make run ARGS="(.*)"$', rf"exec .venv/bin/towpath dev \1 {ports}", start, flags=re.M
        )
        assert "exec" in script
        return Terminal.open(script, folder=self.folder, settings=self.settings)

    async def follows(self, console: Block) -> None:
        """Type the commands of a terminal, and see what is shown."""
        assert console.language == "console"
        play = Play.read(console.text)
        async with self.terminal(play.script) as terminal:
            for line in play.lines:
                await terminal.sees(line, seconds=120)
            assert await terminal.ends(timeout=120) == 0


class Shown:
    """The lines of a terminal that are not compared yet."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._seen = 0

    async def until(self, text: str) -> None:
        """Wait until each line of ``text`` is shown, in this order."""
        for line in filter(None, map(str.rstrip, text.splitlines())):

            def found(line: str = line) -> bool:
                printed = self._terminal.printed
                for number in range(self._seen, len(printed)):
                    if looks_like(printed[number].rstrip(), line):
                        self._seen = number + 1
                        return True
                return False

            await eventually(found, timeout=180)


async def test_from_an_empty_folder_to_an_answer_in_the_browser_and_to_a_database(
    rabbitmq: Rabbit, tmp_path: Path, chromium_path: Path
) -> None:
    walk = Walk(tmp_path, rabbitmq.url)
    make, handler = walk.blocks(MAKE)
    await walk.follows(make)
    assert handler.text in (walk.own / "mill/src/mill/handlers.py").read_text()

    start, ready = walk.blocks(RUN)
    async with walk.dev(start.text) as dev:
        shown = Shown(dev)
        await shown.until(ready.text)

        listening, asking = walk.blocks(ASK)
        play = Play.read(listening.text)
        async with walk.terminal(play.script) as listener:
            await listener.sees(play.lines[0], seconds=120)
            await walk.follows(asking)
            await listener.sees(play.lines[1])

        pack, index, serve = walk.blocks(PAGE)
        assert index.name == "index.html"
        await run(pack.text, folder=walk.folder)
        (walk.own / index.name).write_text(index.text)
        async with walk.terminal(serve.text):
            await _asks_in_the_browser(walk.page, chromium_path)

        test, change, restarted, again, mistake, broken, repair = walk.blocks(CHANGE)
        for console in (test, change):
            await walk.follows(console)
        await shown.until(restarted.text)
        for console in (again, mistake):
            await walk.follows(console)
        await shown.until(broken.text)
        await walk.follows(repair)
        assert await dev.interrupts(timeout=120) == 0

    more, start, asking, column, missing, migration, restarted, kept = walk.blocks(STORE)
    await walk.follows(more)
    async with walk.dev(start.text) as dev:
        shown = Shown(dev)
        await shown.until("  Ready. Ctrl-C stops all of it.")
        for console in (asking, column):
            await walk.follows(console)
        await shown.until(missing.text)
        assert migration.name is not None
        (walk.own / "ledger/src/ledger/migrations" / migration.name).write_text(migration.text)
        await shown.until(restarted.text)
        await walk.follows(kept)
        await _calls_the_outside(walk, shown, listening)
        assert await dev.interrupts(timeout=120) == 0


async def _calls_the_outside(walk: Walk, shown: Shown, listening: Block) -> None:
    calls, declare, table, asking, failed, outside, start, retry, pushed, tested = walk.blocks(CALL)
    package = walk.own / "ledger/src/ledger"

    async def restarted(file: str) -> None:
        await shown.until(f"ledger: {file} changed; starting it again\nledger: ready")

    assert calls.name == "calls.py"
    (package / calls.name).write_text(calls.text)
    await restarted(calls.name)
    await walk.follows(declare)
    await restarted("handlers.py")
    await walk.follows(table)
    await restarted("app.py")
    await walk.follows(asking)

    async def is_parked() -> bool:
        listed = await run(".venv/bin/towpath effects list ledger --state parked --json", folder=walk.folder)
        return bool(listed)

    await eventually(is_parked, timeout=120, every=0.5)
    await walk.follows(failed)

    assert outside.name == "outside.py"
    (walk.own / outside.name).write_text(outside.text)
    listener = Play.read(listening.text)
    async with walk.terminal(start.text) as other, walk.terminal(listener.script) as listens:
        await listens.sees(listener.lines[0], seconds=120)
        address = re.search(r"http://127\.0\.0\.1:\d+/", calls.text)
        assert address is not None
        await _is_served(address[0])
        await walk.follows(retry)
        await other.sees("ana greets Kim: r-1", seconds=60)
        await listens.sees(pushed.text.rstrip(), seconds=60)
    await walk.follows(tested)


async def _is_served(url: str) -> None:
    """Wait until a server answers there, whatever it says."""

    async def served() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(url):
                return True
        return False

    await eventually(served, timeout=30)


async def _asks_in_the_browser(url: str, chromium_path: Path) -> None:
    await _is_served(url)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(chromium_path),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = await browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(url)
        await page.locator("#name").fill("Ben")
        await page.get_by_role("button").click()
        await expect(page.locator("#answer")).to_have_text("Hello, Ben!", timeout=20_000)
        await expect(page.locator("#pushed li")).to_have_text(["Hello, Ben!"])
        await browser.close()
    assert problems == []


@pytest.mark.parametrize("step", [MAKE, RUN, ASK, PAGE, CHANGE, STORE, CALL, OUTSIDE])
def test_the_contents_list_every_step(step: str) -> None:
    number, _, title = step.partition(". ")
    anchor = f"{number}-{title.lower().replace(' ', '-').replace(',', '')}"
    assert f"{number}. [{title}](#{anchor})" in TUTORIAL
