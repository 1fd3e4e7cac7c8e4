"""``towpath request`` and ``towpath listen``, as typed: a real gateway, a real service, a real broker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, SECRET
from towpath.tools.visible import as_json

TOWPATH = Path(sys.executable).parent / "towpath"


def towpath(*arguments: str, typed: str = "", **settings: str) -> tuple[int, str, str]:
    """Run it; status, output and errors."""
    ran = subprocess.run(
        [TOWPATH, *arguments],
        env={f"TOWPATH_{name.upper()}": value for name, value in settings.items()},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
async def gateway(processes: Processes, rabbitmq: Rabbit, tmp_path: Path) -> str:
    """The address of a gateway, with an orders service behind it."""
    port = free_port()
    await processes.start("towpath-gateway", port=port, amqp_url=rabbitmq.url, **AUTH_SETTINGS)
    await processes.start(
        "towpath-orders", amqp_url=rabbitmq.url, database_url=f"sqlite:///{tmp_path}/orders.db"
    )
    return f"ws://127.0.0.1:{port}/ws"


async def listening(processes: Processes, *arguments: str) -> Process:
    listener = processes.launch("towpath", "listen", *arguments, auth_secret=SECRET)
    await eventually(lambda: "listening as ana" in listener.output, timeout=30)
    return listener


async def test_a_request_prints_its_answer_and_the_pushes_are_listened_to(
    processes: Processes, gateway: str
) -> None:
    ana = ("--user", "ana", "--gateway", gateway)
    listener = await listening(processes, *ana)
    as_lines = await listening(processes, *ana, "--json", "order.updated")

    def ask(*words: str, typed: str = "") -> tuple[int, str, str]:
        return towpath("request", *words, *ana, typed=typed, auth_secret=SECRET)

    order = '{"order_id": "O1", "amount": "9.90", "note": "\\u001b[2Jtwo\\u202e"}'
    status, output, errors = ask("order.submit", "-", typed=order)
    assert (status, errors) == (0, "")
    assert json.loads(output)["status"] == "submitted"
    assert output.startswith('{\n  "')
    status, output, errors = ask("order.list", "--json")
    assert (status, errors, output.count("\n")) == (0, "", 1)
    assert [one["order_id"] for one in json.loads(output)["orders"]] == ["O1"]

    assert ask("order.get", '{"order_id": "O2"}')[:2] == (1, "")
    status, output, errors = ask("order.submit", '{"amount": "many"}')
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("towpath: invalid_data: ")
    assert "amount: " in errors
    status, output, errors = ask("order.submit", '{"amount": "many"}', "--json")
    assert (status, errors) == (1, "")
    assert json.loads(output)["error"]["code"] == "invalid_data"
    status, output, errors = ask("order.list", "--scope", "chat")
    assert (status, output, errors.startswith("towpath: forbidden: ")) == (1, "", True)

    def pushed() -> Sequence[str]:
        return [line for line in listener.output.splitlines() if not line.startswith("towpath: ")]

    await eventually(lambda: pushed() and "order.updated" in as_lines.output)
    assert " order.updated order:ana#1 {" in pushed()[0]
    assert listener.output.isprintable() is False  # line ends
    assert all(letter.isprintable() or letter == "\n" for letter in listener.output)
    envelope = json.loads(as_lines.output.splitlines()[-1])
    assert (envelope["action"], envelope["stream"], envelope["seq"]) == ("order.updated", "order:ana", 1)
    for process in (listener, as_lines):
        os.kill(process.pid, signal.SIGINT)
        assert await process.ended() == 0, process.output


async def test_a_refused_token_is_one_line(processes: Processes, gateway: str) -> None:
    for command in (("request", "order.list"), ("listen",)):
        status, output, errors = towpath(
            *command,
            "--user",
            "ana",
            "--gateway",
            gateway,
            auth_secret="another secret of 32 letters, at least",
        )
        assert (status, output, errors.count("\n")) == (1, "", 1)
        assert errors.startswith(f"towpath: {gateway}: no connection: ")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("request order.list {", "data '{' is not JSON (Expecting"),
        ("request order.list []", "data '[]' is not a JSON object: write it as '{\"limit\": 5}'"),
        (
            "request order.list --data /nowhere",
            "no `towpath dev` runs in /nowhere: start it, or name a gateway",
        ),
        ("listen --data /nowhere", "no `towpath dev` runs in /nowhere: start it, or name a gateway"),
        ("listen --gateway http://x", "--gateway http://x: 'http://x' is not a WebSocket address"),
        ("listen --gateway ws://127.0.0.1:1/ws", "ws://127.0.0.1:1/ws: no connection: "),
    ],
)
def test_an_impossible_command_prints_one_line(command: str, line: str) -> None:
    status, output, errors = towpath(*command.split(" "), "--user", "ana", auth_secret=SECRET)
    assert (status in (1, 2), output) == (True, "")
    assert errors.startswith(f"towpath: {line}")
    assert errors.count("\n") == 1


def test_values_are_json_that_a_terminal_does_not_obey() -> None:
    value = {"\x1b]0;title\x07": ["\x9b2J", "a\u202eb\u200b", "\ud800", "早 é 👩", "\n"]}
    for indent in (None, 2):
        text = as_json(value, indent=indent)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert "早 é 👩" in text
        assert json.loads(text) == value


def test_the_version_is_printed() -> None:
    assert towpath("--version") == (0, "towpath 0.1.0\n", "")
