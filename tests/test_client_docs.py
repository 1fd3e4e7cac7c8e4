"""The clients' pages: their examples run unchanged, and their tables agree with the code.

The nameless blocks of a page are one program, run in the order of the page against a real system. Blocks with a name
are files of their own. A program must print the ``text`` block right behind it.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from towpath.client import Client, TowpathError, connect
from towpath.client.reconnect import should_move_on
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import should_reconnect
from towpath.protocol.errors import ErrorCode
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token
from towpath.tools.rabbitmq_node import RabbitControl

from .snippets import ROOT, Block, Terminal, blocks_of, rows, run, section

#: For tests that share the system of this module.
in_one_loop = pytest.mark.asyncio(loop_scope="module")

PYTHON = (ROOT / "docs/clients/python.md").read_text()
JAVASCRIPT = (ROOT / "docs/clients/javascript.md").read_text()
PAGES = {"python": PYTHON, "javascript": JAVASCRIPT}
SOURCES = {
    "python": sorted((ROOT / "clients/python/src/towpath/client").glob("*.py")),
    "javascript": sorted((ROOT / "clients/js/src").glob("*.ts")),
}
WITH_NODE = str(ROOT / "scripts/with-node")

#: A row of "Limits and defaults", and its constant in the code.
CONSTANTS = {
    "pushes held behind a hole": "HELD_LIMIT",
    "pushes held by a view while it loads": "LOADING_LIMIT",
    "first ceiling of the backoff": "FIRST_CEILING_MS",
    "its least ceiling once open": "SPREAD_MS",
    "its last ceiling": "LAST_CEILING_MS",
    "longest wait that a server can request": "LONGEST_ADVICE_MS",
    "wait for the gateway's welcome": "WELCOME_TIME_MS",
    "wait for the answer to a ping": "PONG_TIME_MS",
    "wait before a failed token renewal is retried": "REFRESH_AGAIN_MS",
    "wait between two saves of positions": "SAVE_EVERY(?:_MS)?",
    "time that `close` waits for running listeners and frames": "CLOSE_TIME",
    "time limit of the token function, and of loading a storage": "GIVEN_TIME_MS",
    "`connect({queueLimit})`": "queueLimit",
    "`request(…, {timeout})`": "REQUEST_TIME_MS",
    "`opened(timeout)`": "OPEN_TIME_MS",
    "`stream(…, {limit})`": "limit",
    "`openView(…, {limit})`": "KEPT_LIMIT",
    "`openView(…, {timeout})`": "LOAD_TIME_MS",
}

#: Between two blocks of the JavaScript page: the client has received all messages so far.
CAUGHT_UP = """
for (const { room, seq } of (await client.request("chat.rooms")).rooms) {
  while ((client.positions[`chat:${room}`] ?? 0) < seq) await new Promise((resolve) => setTimeout(resolve, 5));
}
console.log("--");
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    rabbitmq_node: RabbitControl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    """All of Towpath, for the tests of this module."""
    async with Rabbit.on(rabbitmq_node) as rabbitmq:
        with Processes() as processes:
            system = System(rabbitmq, processes, tmp_path_factory.mktemp("system"))
            await system.start(gateways=1)
            yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JavaScript client, installed from ``npm pack`` as the page shows."""
    folder = tmp_path_factory.mktemp("javascript")
    await run(shell(JAVASCRIPT).replace("--pack-destination .", f"--pack-destination {folder}"), folder=ROOT)
    await run("tar -xzf towpath-client-*.tgz", folder=folder)
    modules = folder / "node_modules/@towpath"
    modules.mkdir(parents=True)
    (modules / "client").symlink_to(folder / "package")
    (folder / "node_modules/@types").symlink_to(ROOT / "clients/node_modules/@types")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(package: Path) -> str:
    """The command for Node with a ``WebSocket``, as the page shows for Node 20."""
    (major,) = await run(f"{WITH_NODE} node -p 'parseInt(process.versions.node)'", folder=package)
    return f"{WITH_NODE} node --no-warnings " + ("--experimental-websocket" if int(major) < 22 else "")


def shell(page: str) -> str:
    (block,) = blocks_of(section(page, "Installing"), "sh")
    return block.text


def here(text: str, system: System, own: str) -> str:
    """``text`` with the address of the test's gateway, and with a room and a user of its own."""
    text = re.sub(r"ws://127\.0\.0\.1:8080/ws|wss://example\.org/ws", system.urls[0], text)
    return re.sub(r"\bana\b", f"{own}_ana", text.replace("lobby", f"{own}_lobby"))


def shown_behind(page: str, block: Block) -> list[str]:
    """The lines of the ``text`` block right behind one of code; none if there is no such block."""
    behind = page[page.index(block.text) + len(block.text) :]
    found = re.match(r"```\n\n```text\n(.*?)^```$", behind, re.M | re.S)
    return found[1].splitlines() if found else []


def story(page: str, language: str) -> list[Block]:
    """The program that a page consists of."""
    blocks = [block for block in blocks_of(page, language) if block.name is None]
    assert len(blocks) >= 12
    return blocks


def the_file(page: str, name: str) -> Block:
    (block,) = (block for block in blocks_of(page) if block.name == name)
    return block


def compiled(block: Block) -> CodeType:
    code: CodeType = compile(block.text, "python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


async def caught_up(client: Client) -> None:
    """Wait until the client has received all messages so far."""
    answer = await client.request("chat.rooms")
    heads = {f"chat:{room['room']}": room["seq"] for room in answer["rooms"]}
    await eventually(lambda: client.positions.items() >= heads.items())


@in_one_loop
async def test_the_python_page_is_one_program_that_prints_what_it_shows(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def fetch_token() -> str:
        return a_token("python_ana")

    page = here(PYTHON, system, "python")
    names: dict[str, Any] = {"fetch_token": fetch_token}
    try:
        for block in story(page, "python"):
            if "client" in names:
                await caught_up(names["client"])
            printed = io.StringIO()
            async with asyncio.timeout(20):
                with contextlib.redirect_stdout(printed):
                    running = eval(compiled(block), names)  # the page's own code
                    if inspect.isawaitable(running):
                        await running
            assert printed.getvalue().splitlines() == shown_behind(page, block), block.text
    finally:
        if "client" in names:
            await names["client"].close()


@pytest.mark.parametrize("status", [200, 401, 503])
async def test_the_token_function_of_the_python_page_gives_up_only_when_signed_out(status: int) -> None:
    def raise_for_status() -> None:
        if status >= 400:
            raise OSError(status)

    async def text() -> str:
        return "a token"

    async def get(_: str, *, cookies: object) -> SimpleNamespace:
        return SimpleNamespace(status=status, raise_for_status=raise_for_status, text=text)

    (block,) = (block for block in story(PYTHON, "python") if "ask_for_a_token" in block.text)
    names: dict[str, Any] = {"http": SimpleNamespace(get=get), "cookies": None, "TowpathError": TowpathError}
    eval(compiled(block), names)  # the page's own code
    ask: Callable[[], Any] = names["ask_for_a_token"]
    if status == 200:
        assert await ask() == "a token"
    else:
        with pytest.raises(TowpathError if status == 401 else OSError) as caught:
            await ask()
        assert not getattr(caught.value, "retryable", False)


@in_one_loop
async def test_the_javascript_page_is_one_program_that_prints_what_it_shows(
    system: System, package: Path, node: str
) -> None:
    page = here(JAVASCRIPT, system, "javascript")
    blocks = story(page, "js")
    (package / "page.mjs").write_text(
        f"const fetchToken = async () => process.env.TOKEN;\n{CAUGHT_UP.join(block.text for block in blocks)}"
        f"{CAUGHT_UP}process.exit();\n"
    )
    printed = await run(
        f"exec {node} page.mjs", folder=package, settings={"TOKEN": a_token("javascript_ana")}
    )
    assert printed == [line for block in blocks for line in [*shown_behind(page, block), "--"]]


@in_one_loop
@pytest.mark.parametrize(("language", "name"), [("python", "hello.py"), ("javascript", "hello.mjs")])
async def test_hello_says_hello(
    language: str, name: str, system: System, package: Path, node: str, tmp_path: Path
) -> None:
    page = here(PAGES[language], system, f"hello_{language}")
    block = the_file(page, name)
    file = (package if language == "javascript" else tmp_path) / name
    file.write_text(block.text)
    program = node if language == "javascript" else sys.executable
    settings = {"TOKEN": a_token("ana")}
    printed = await run(f"exec {program} {file}", folder=ROOT, settings=settings)
    assert printed == shown_behind(page, block) == ["chat.message Hello!"]


@in_one_loop
async def test_the_page_in_a_browser_receives_messages_sent_while_it_was_closed(
    system: System, package: Path, chromium_path: Path
) -> None:
    (package / "page.html").write_text(here(the_file(JAVASCRIPT, "page.html").text, system, "browser"))
    (package / "token").write_text(a_token("browser_ana"))
    port = free_port()
    serving = f"exec {sys.executable} -m http.server {port} --bind 127.0.0.1"
    async with (
        Terminal.open(serving, folder=package) as server,
        async_playwright() as playwright,
        connect(system.urls[0], token=a_token("ben")) as ben,
        await playwright.chromium.launch(
            executable_path=str(chromium_path),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        ) as browser,
    ):
        await server.sees("Serving HTTP …")
        page = await browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(f"http://127.0.0.1:{port}/page.html")
        await expect(page.locator("#state")).to_have_text("open", timeout=15_000)
        await page.wait_for_function("sessionStorage['towpath positions of browser_ana']?.includes('chat:')")
        await page.goto("about:blank")
        await ben.request("chat.join", {"room": "browser_lobby"})
        await ben.request("chat.send", {"room": "browser_lobby", "text": "Where are you?"})
        await page.goto(f"http://127.0.0.1:{port}/page.html")
        await expect(page.locator("#said li")).to_have_text(["ben: Where are you?"], timeout=15_000)
        assert problems == []


@in_one_loop
async def test_the_example_tests_of_the_pages_pass(package: Path, node: str, tmp_path: Path) -> None:
    (tmp_path / "test_waving.py").write_text(the_file(PYTHON, "test_waving.py").text)
    (package / "waving.test.mjs").write_text(the_file(JAVASCRIPT, "waving.test.mjs").text)
    await asyncio.gather(
        run(f"{sys.executable} -m pytest -q -p no:cacheprovider test_waving.py", folder=tmp_path),
        run(f"{node} --test waving.test.mjs", folder=package),
    )


@in_one_loop
async def test_the_javascript_page_passes_the_type_checker(package: Path) -> None:
    (package / "types.ts").write_text(the_file(JAVASCRIPT, "types.ts").text)
    (package / "checked.js").write_text(
        "const fetchToken = async () => process.env['TOKEN'] ?? '';\n"
        + "\n".join(block.text for block in story(JAVASCRIPT, "js"))
    )
    options = (
        "--noEmit --strict --noImplicitAny false --useUnknownInCatchVariables false --allowJs --checkJs "
        "--module nodenext --target es2022 --types node"
    )
    await run(
        f"{WITH_NODE} {ROOT}/clients/node_modules/.bin/tsc {options} types.ts checked.js", folder=package
    )


async def test_the_wheels_of_the_python_page_hold_the_client(tmp_path: Path) -> None:
    commands = shell(PYTHON)
    assert "make packages\n" in commands
    assert "\n\t@$(BIN)/python scripts/packages.py\n" in (ROOT / "Makefile").read_text()
    packages = f"{sys.executable} scripts/packages.py {tmp_path}"
    await run(commands.replace("make packages", packages), folder=ROOT)
    held = await run("for wheel in *.whl; do python3 -m zipfile --list $wheel; done", folder=tmp_path)
    names = {line.split()[0] for line in held}
    assert {"towpath/client/__init__.py", "towpath/client/py.typed", "towpath/protocol/envelope.py"} <= names


@pytest.mark.parametrize("language", PAGES)
def test_a_page_lists_every_error_code_and_no_other(language: str) -> None:
    server, own = [
        [row for row in rows(section(PAGES[language], "Errors")) if len(row) == cells] for cells in (3, 2)
    ]
    assert {row[0].strip("`"): row[1] for row in server} == {
        code.value: "yes" if code.retryable else "no" for code in ErrorCode
    }
    source = next(path for path in SOURCES[language] if path.stem == "errors").read_text()
    if language == "python":
        tree = source.partition("from this side")[2]
        known = set(re.findall(r"^ {8}[├└]── (\w+)", tree, re.M)) - {"aborted"} | {"timeout"}
    else:
        (union,) = re.findall(r"export type LocalErrorCode =\n((?:  \| \"\w+\";?\n)+)", source)
        known = set(re.findall(r"\w+", union))
    assert {row[0].strip("`") for row in own} == known


@pytest.mark.parametrize("language", PAGES)
def test_every_limit_of_a_page_is_the_default_in_the_code(language: str) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "connect": connect, "request": Client.request, "opened": Client.opened, "stream": Client.stream,
        "open_view": Client.open_view,
    }  # fmt: skip
    source = "\n".join(path.read_text() for path in SOURCES[language] if path.stem != "transport")
    for what, told, _ in rows(section(PAGES[language], "Limits and defaults")):
        if parameter := re.fullmatch(r"`(\w+)\((\w+)=\)`", what):
            assert str(inspect.signature(calls[parameter[1]]).parameters[parameter[2]].default) == told, what
            continue
        name = rf"(?<![\w#.]){'_?' if language == 'python' else ''}{CONSTANTS[what]}"
        values = re.findall(rf"{name}(?:: Final)? = ([\d_.]+)", source)
        assert [value.replace("_", "") for value in values] == [told], what


@pytest.mark.parametrize("language", PAGES)
def test_a_page_lists_the_final_close_codes_and_those_that_lead_to_another_address(language: str) -> None:
    told = section(PAGES[language], "States and reconnecting")
    verdicts = {row[0]: row[1] for row in rows(told) if row[0][0].isdigit()}
    closed = [name for name, verdict in verdicts.items() if verdict.startswith("`closed`")]
    final = {int(code) for code in closed[0].split(", ")} | set(range(4500, 5000))
    assert closed[1:] == ["4500 to 4999"]
    assert {code for code in range(1000, 5000) if not should_reconnect(code)} == final
    (elsewhere,) = re.findall(r"ends\s+with ([^.]*)\.", told)
    assert {int(code) for code in re.findall(r"\b\d{4}\b", elsewhere)} == {
        code for code in range(1000, 5000) if should_move_on(code)
    }


@pytest.mark.parametrize("language", PAGES)
def test_figures_of_gateways_and_services_on_a_page_are_their_defaults(language: str) -> None:
    gateway, service = GatewaySettings.model_fields, ServiceSettings.model_fields
    hours = service["inbox_retention"].default / 3600
    told = [
        f"{gateway['expiry_notice'].default:g} seconds before",
        f"{2 * gateway['heartbeat'].default:g} seconds by default",
        f"{gateway['max_frame_bytes'].default // 1024} KiB unless",
        f"remember ids for {hours:g} hours",
    ]
    if language == "javascript":
        told.append(f"takes {gateway['max_connections_per_user'].default} connections of one user")
    words = " ".join(PAGES[language].split())
    assert [one for one in told if one not in words] == []
    assert service["stream_retention"].default == timedelta(weeks=1).total_seconds()
    assert "keep entries for a week" in words


def test_both_pages_have_the_same_sections_in_the_same_order() -> None:
    def headings(page: str) -> list[str]:
        return [title for title in re.findall(r"^## (.*)$", page, re.M) if not title.startswith("In ")]

    assert headings(PYTHON) == headings(JAVASCRIPT)


def test_a_page_lists_every_option_of_a_request() -> None:
    parameters = set(inspect.signature(Client.request).parameters) - {"self", "action", "data"}
    assert {row[0].strip("`") for row in rows(section(PYTHON, "Requests"))} == parameters
    surface = (ROOT / "clients/js/src/surface.ts").read_text()
    (options,) = re.findall(r"export interface RequestOptions \{\n(.*?)^\}", surface, re.M | re.S)
    told = {row[0].strip("`") for row in rows(section(JAVASCRIPT, "Requests"))}
    assert told == set(re.findall(r"^  (\w+)\?:", options, re.M))
