"""Autobahn's cases, by the runner ``kosoku``: against the gateway's socket, and as the server of both clients.

A client judges nothing of its own here: it sends back what it receives, on the layer that reads and writes frames.

Left out: 12.* and 13.*, compression. Neither the gateway nor a client offers it (see the listener), so each of the
216 cases would be answered "not implemented". For the clients also binary messages, which they cannot send.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from kosoku import FailureError, run_fuzzingclient, run_fuzzingserver

from judges.needs import ROOT
from towpath.client.events import Disconnected
from towpath.client.transport import Transport

_LEFT_OUT: Final = ["12.*", "13.*"]
#: Cases of binary messages, which a client under test has to send back. The contract has text frames only, so neither
#: client has a way to send one; each case would wait for it until its time limit, up to 1,000 s.
_BINARY: Final = ["1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*"]
#: Connections at once, with the gateway's echo.
_AT_ONCE: Final = 4
#: Verdicts that count as passed: "informational" is for cases that RFC 6455 leaves open.
_RIGHT: Final = frozenset({"OK", "INFORMATIONAL"})
_AGENT: Final = "towpath"


async def gateway() -> Sequence[Any]:
    """Judge the gateway's socket."""
    async with _echo() as port:
        return await _results(run_fuzzingclient(f"ws://127.0.0.1:{port}", None, _LEFT_OUT, _AT_ONCE))


async def python() -> Sequence[Any]:
    """Judge the transport of the Python client."""
    return await _serve(_drive_python)


async def javascript() -> Sequence[Any]:
    """Judge the socket of the JavaScript client."""
    return await _serve(_drive_javascript)


async def _serve(drive: Callable[[str], Awaitable[None]]) -> Sequence[Any]:
    fuzzing: Any = run_fuzzingserver(None, _LEFT_OUT + _BINARY, host="127.0.0.1", port=0)
    async with fuzzing as server:
        await drive(f"ws://127.0.0.1:{server.port}")
        return await _results(server.get_result())


async def _results(run: Awaitable[Sequence[Any]]) -> Sequence[Any]:
    try:
        return await run
    except FailureError as failure:  # some cases failed: the list of expected deviations decides about that
        found: Sequence[Any] = failure.results
        return found


@asynccontextmanager
async def _echo() -> AsyncIterator[int]:
    """The gateway's echo in a process of its own, so that it does not wait for the suite."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "judges.echo", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), 30))
    finally:
        process.kill()
        await process.wait()


async def _drive_python(url: str) -> None:
    count = int((await _converse(f"{url}/getCaseCount"))[0])
    for case in range(1, count + 1):
        await _converse(f"{url}/runCase?case={case}&agent={_AGENT}")
    await _converse(f"{url}/updateReports?agent={_AGENT}")


async def _converse(url: str) -> list[str | bytes]:
    """One connection, until it ends; each text that is received is sent back."""
    heard: list[str | bytes] = []

    def take(frame: str | bytes) -> None:
        heard.append(frame)
        if isinstance(frame, str):
            transport.send(frame.encode())

    def ended(ending: Disconnected) -> None:
        """The server ends each case."""

    transport = Transport(url, "no-token", None, heard=take, ended=ended)
    await transport.run()
    return heard


async def _drive_javascript(url: str) -> None:
    # Node has had a WebSocket of its own since 20.10, and without this option since 22.
    node = [str(ROOT / "scripts/with-node"), "node", "--experimental-websocket", "--import", "tsx"]
    node.append(str(ROOT / "judges/client_js.mjs"))
    process = await asyncio.create_subprocess_exec(*node, url, _AGENT, cwd=ROOT / "clients")
    if status := await process.wait():
        raise RuntimeError(f"the JavaScript client ended with status {status}")


def _outcome(result: Any) -> str:
    """One word for a case: that of its messages, else that of its close."""
    if result.behavior.value not in _RIGHT:
        return str(result.behavior.value).lower()
    if result.behavior_close.value not in _RIGHT:
        return f"close: {result.behavior_close.value}".lower()
    return "ok"


_SUBJECTS: Final[dict[str, Callable[[], Coroutine[Any, Any, Sequence[Any]]]]] = {
    "gateway": gateway,
    "python": python,
    "javascript": javascript,
}


def _judge(subject: str, output: Path) -> None:
    results = asyncio.run(_SUBJECTS[subject]())
    cases = {result.case_id: _outcome(result) for result in results}
    for result in results:
        if cases[result.case_id] != "ok":
            said = (result.result, result.result_close, result.remote_close_code, result.remote_close_reason)
            sys.stdout.write(f"{result.case_id} {cases[result.case_id]}: {said}\n")
    output.write_text(json.dumps({"cases": cases}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=_SUBJECTS)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    _judge(asked.subject, asked.output)
