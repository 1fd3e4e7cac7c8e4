"""Clients in processes of their own: what they must leave behind, which is nothing."""

import sys

import pytest

from towpath.testkit.client_process import ClientEnded, ClientProcess, NoToken, RequestFailed

#: Answers ``connect``, and refuses everything else but the end.
DRIVER = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "connect":
        print(json.dumps({"event": "token"}), flush=True)
        print(json.dumps({"event": "answer", "id": command["id"], "data": {"urls": command["urls"]}}), flush=True)
    elif command["do"] == "token":
        print(json.dumps({"event": "state", "state": "open", "gateway_id": command.get("token")}), flush=True)
    elif command["do"] == "request":
        error = {"code": "forbidden", "message": "no", "retryable": False}
        print(json.dumps({"event": "failed", "id": command["id"], "error": error}), flush=True)
"""


def a_driver(last_words: str = "") -> list[str]:
    return [sys.executable, "-c", DRIVER + last_words]


async def test_a_client_gets_a_problem_with_its_remedy_and_without_its_token() -> None:
    async with ClientProcess.start(a_driver(), token=lambda: "t-1") as client:
        await client.connect(["ws://one/ws"])
        assert (await client.event("state"))["gateway_id"] == "t-1"
        with pytest.raises(RequestFailed, match="forbidden: no"):
            await client.request("chat.send")


async def test_a_token_function_that_fails_makes_the_callback_fail() -> None:
    def closed() -> str:
        raise NoToken("closed today")

    async with ClientProcess.start(a_driver(), token=closed) as client:
        await client.connect(["ws://one/ws"])
        assert (await client.event("state"))["gateway_id"] is None


@pytest.mark.parametrize(
    "last_words",
    [
        "print(json.dumps({'event': 'unhandled', 'what': 'a promise'}))",
        "print('a warning', file=sys.stderr)",
        "sys.exit(3)",
    ],
)
async def test_an_unclean_end_of_a_client_fails_the_test(last_words: str) -> None:
    with pytest.raises(AssertionError) as raised:
        async with ClientProcess.start(a_driver(last_words), token=lambda: "t-1") as client:
            await client.connect(["ws://one/ws"])
    assert "The client said last" in raised.value.__notes__[0]


async def test_a_request_of_a_killed_client_leaves_no_waiting_state() -> None:
    with pytest.raises(ClientEnded):
        async with ClientProcess.start([sys.executable, "-c", "pass"], token=lambda: "t-1") as client:
            await client.connect(["ws://one/ws"])


async def test_a_killed_client_ends_without_a_goodbye() -> None:
    async with ClientProcess.start(a_driver(), token=lambda: "t-1") as client:
        await client.connect(["ws://one/ws"])
        await client.kill()
