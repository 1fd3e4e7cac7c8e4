"""The tutorial's steps, done as they stand there: its files, its commands, and what it says one sees."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from towpath.testkit.bare_page import bare_page
from towpath.testkit.eventually import eventually
from towpath.testkit.ports import first_of_free_ports, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.cli import app
from towpath.tools.rabbitmq_node import RabbitControl

from .snippets import ROOT, Play, Terminal, blocks_of, looks_like, run, section

#: For tests that share the system of this module.
in_one_loop = pytest.mark.asyncio(loop_scope="module")

TUTORIAL = (ROOT / "docs/tutorial/README.md").read_text()
RUN, TERMINAL, PAGE, KILL, SERVICE = re.findall(r"^## (\d\. .*)$", TUTORIAL, re.M)


class Walk:
    """A reader who follows the tutorial.

    Attributes:
        folder: In the role of the repository's folder; ``../hello`` is beside it.
        settings: Settings that separate this run from others.
    """

    def __init__(self, folder: Path, amqp_url: str) -> None:
        self.folder = folder / "towpath"
        self.hello = folder / "hello"
        for shared in (".venv", "scripts", "clients"):
            (self.folder / shared).parent.mkdir(exist_ok=True)
            (self.folder / shared).symlink_to(ROOT / shared)
        self.hello.mkdir()
        self._ports = {
            port: str(free_port()) for port in ("8000", "8001", "8080", "8090", "8180", "8181", "8182")
        }
        self.settings = {
            "TOWPATH_AMQP_URL": amqp_url,
            "TOWPATH_ADMIN_PORT": str(first_of_free_ports()),
            "TOWPATH_WEB_ROOT": str(bare_page(folder / "web")),
        }
        for block in blocks_of(TUTORIAL):
            if block.name is not None and not (self.hello / block.name).exists():
                (self.hello / block.name).write_text(self.elsewhere(block.text))

    def elsewhere(self, text: str) -> str:
        """``text`` with ports that are free."""
        return re.sub(r"\b\d{4}\b", lambda port: self._ports.get(port[0], port[0]), text)

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self._ports[port]}"

    def shown(self, step: str, language: str) -> list[str]:
        """The nameless blocks of one step."""
        blocks = blocks_of(section(TUTORIAL, step), language)
        return [self.elsewhere(block.text) for block in blocks if block.name is None]

    def plays(self, step: str) -> list[Play]:
        return [Play.read(text) for text in self.shown(step, "console")]

    def terminal(self, script: str) -> contextlib.AbstractAsyncContextManager[Terminal]:
        return Terminal.open(script, folder=self.folder)

    def as_user(self, user: str, play: Play) -> contextlib.AbstractAsyncContextManager[Terminal]:
        """A terminal in which ``user`` has got a token before."""
        return self.terminal(f"export TOKEN=$(.venv/bin/towpath token --user {user})\n{play.script}")

    async def answers(self, url: str) -> None:
        """Wait until something is served there."""

        async def served() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as http, http.get(url) as response:
                    return response.status == 200
            return False

        await eventually(served, timeout=30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def walk(rabbitmq_node: RabbitControl, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Walk]:
    """Step 1 is done, and says what the tutorial shows."""
    async with Rabbit.on(rabbitmq_node) as rabbitmq:
        walk = Walk(tmp_path_factory.mktemp("tutorial"), rabbitmq.url)
        (start,), (shown,) = walk.shown(RUN, "sh"), walk.shown(RUN, "text")
        assert "\n\t@$(BIN)/towpath dev $(ARGS)\n" in (ROOT / "Makefile").read_text()
        script = re.sub(
            r'^make run ARGS="(.*)"$',
            walk.elsewhere(r"exec .venv/bin/towpath dev \1 --port 8080 --web-port 8000 --ingress-port 8090"),
            start,
            flags=re.M,
        )
        assert "exec" in script
        async with Terminal.open(script, folder=walk.folder, settings=walk.settings) as terminal:
            lines = [line.rstrip() for line in shown.splitlines() if line]
            await eventually(lambda: any("Ready." in line for line in terminal.printed), timeout=60)
            assert all(any(looks_like(one, line) for one in terminal.printed) for line in lines), (
                terminal.printed
            )
            yield walk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chatted(walk: Walk) -> tuple[Terminal, Terminal]:
    """Step 2 is done: two people are in the room, and their terminals show what they did."""
    for_ana, for_ben = walk.plays(TERMINAL)
    async with walk.terminal(for_ana.script) as ana:
        await ana.sees(for_ana.lines[0])
        async with walk.terminal(for_ben.script) as ben:
            rest = Play(for_ana.script, for_ana.lines[1:])
            await asyncio.gather(rest.perform(ana), for_ben.perform(ben))
            assert [await ben.ends(), await ana.ends()] == [0, 0]
    return ana, ben


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client_package(walk: Walk) -> None:
    """Of step 3: the JavaScript client is packed and unpacked beside the page."""
    pack, _ = walk.shown(PAGE, "sh")
    await run(pack, folder=walk.folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(walk: Walk, chatted: object, client_package: None, chromium_path: Path) -> AsyncIterator[Page]:
    """Of step 3: the page in a browser, with the line of step 5."""
    index = walk.hello / "index.html"
    (line,) = (block.text for block in blocks_of(section(TUTORIAL, SERVICE)) if block.name == "index.html")
    index.write_text(index.read_text().replace("  </script>\n</html>", f"{line}  </script>\n</html>"))
    assert line in index.read_text()
    _, serve = walk.shown(PAGE, "sh")
    async with walk.terminal(serve), async_playwright() as playwright:
        await walk.answers(walk.url("8001"))
        browser = await playwright.chromium.launch(
            executable_path=str(chromium_path),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = await browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(walk.url("8001"))
        await expect(page.locator("#state")).to_have_text("open", timeout=15_000)
        yield page
        await browser.close()
        assert problems == []


@in_one_loop
async def test_two_users_chat_in_two_terminals(walk: Walk, chatted: tuple[Terminal, Terminal]) -> None:
    for play, terminal in zip(walk.plays(TERMINAL), chatted, strict=True):
        assert terminal.printed == [*filter(Play.is_printed, play.lines), "-- closed"]


@in_one_loop
async def test_a_page_joins_the_same_room(walk: Walk, page: Page) -> None:
    (play,) = walk.plays(PAGE)
    said = page.locator("#said li")
    async with walk.as_user("ana", play) as ana:
        joined, from_page, *rest = play.lines
        await ana.sees(joined)
        await page.locator("#text").fill(from_page.removeprefix("ben: "))
        await page.get_by_role("button").click()
        await ana.sees(from_page)
        await Play(play.script, rest).perform(ana)
        await expect(said.last).to_have_text(rest[-1])
        await expect(said.nth(-2)).to_have_text(from_page)
        assert await ana.ends() == 0


@in_one_loop
async def test_a_killed_gateway_loses_no_message(walk: Walk, chatted: object) -> None:
    start, kill = walk.shown(KILL, "sh")
    (play,) = walk.plays(KILL)
    joined, one, lost, back, *missed = play.lines
    in_room = Play.read(walk.shown(TERMINAL, "console")[1])
    async with walk.terminal("exec bash -eus") as fourth, walk.terminal(in_room.script) as ben:
        await ben.sees(joined)
        await fourth.types(start)
        await walk.answers(walk.url("8181") + "/health/ready")
        async with walk.as_user("ana", play) as ana:
            await ana.sees(joined)
            await ben.types(one.removeprefix("ben: "))
            await ana.sees(one)
            await fourth.types(kill)
            await ana.sees(lost)
            for line in missed:
                await ben.types(line.removeprefix("ben: "))
            for line in (back, *missed):
                await ana.sees(line)
            assert await ana.ends() == 0


@in_one_loop
async def test_a_service_of_your_own_serves_a_program_and_the_page(walk: Walk, page: Page) -> None:
    (start, *_) = walk.shown(SERVICE, "sh")
    (play,) = walk.plays(SERVICE)
    export, _, _ = walk.shown(KILL, "sh")[0].partition("\n")
    async with walk.terminal("exec bash -eus") as fourth:
        await fourth.types(f"{export}\n{start}")
        await walk.answers(walk.url("8182") + "/health/ready")
        async with walk.as_user("ana", play) as ana:
            for line in play.lines:
                await ana.sees(line)
        await expect(page.locator("#said li").last).to_have_text("ana waves.")
        await fourth.types("kill $!; wait $! || true; echo stopped")
        await fourth.sees("stopped")
        async with walk.as_user("ana", play) as ana:
            await fourth.types(start)
            for line in play.lines:
                await ana.sees(line)


@in_one_loop
async def test_the_types_of_the_service_are_checked(walk: Walk, client_package: None) -> None:
    modules = walk.hello / "node_modules/@towpath"
    modules.mkdir(parents=True)
    (modules / "client").symlink_to(walk.hello / "package")
    right = walk.hello / "waves.ts"
    wrong = walk.hello / "wrong.ts"
    wrong.write_text(right.read_text().replace('"wave.send", { to }', '"wave.send", { two: to }'))
    assert right.read_text() != wrong.read_text()
    tsc = f"{ROOT}/scripts/with-node {ROOT}/clients/node_modules/.bin/tsc --noEmit --strict --module nodenext"
    assert await run(f"{tsc} --target es2022 waves.ts", folder=walk.hello) == []
    report = await run(f"{tsc} --target es2022 wrong.ts || true", folder=walk.hello)
    assert re.fullmatch(r"wrong\.ts\(13,\d+\): error TS2769: .*", report[0]), report


def test_every_shown_command_exists() -> None:
    shell = "\n".join(block.text for block in blocks_of(TUTORIAL) if block.language in ("sh", "console"))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)", shell)) <= targets
    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert set(re.findall(r"bin/towpath ([a-z]+)", shell)) <= commands
