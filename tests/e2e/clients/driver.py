"""Drives the Python client for towpath.testkit.client_process: a command a line on standard input, an event a line on
standard output. driver.mjs is the same for JavaScript.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any

from towpath.client import Client, FileStorage, Reset, TowpathError, connect

Json = dict[str, Any]


def say(event: str, **particulars: Any) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **particulars}), flush=True)  # noqa: T201  # its output


def plain(error: Any) -> Json:
    return {name: getattr(error, name, None) for name in ("code", "message", "retryable", "details")}


class Driver:
    """The commands, by name; what a command returns is its answer."""

    client: Client

    def __init__(self) -> None:
        self._tokens_asked: deque[asyncio.Future[str]] = deque()

    async def connect(self, _: str, urls: list[str], storage: str | None = None, **options: Any) -> None:
        self.client = client = connect(
            urls, token=self._token, storage=FileStorage(storage) if storage else None, **options
        )
        client.on_state(self._state)
        client.on_error(lambda error: say("error", error=plain(error)))
        client.on(
            "retry", lambda retry: say("retry", attempt=retry.attempt, delay=retry.delay, code=retry.code)
        )
        client.on("incomplete", lambda told: say("incomplete", stream=told.stream, seq=told.seq))
        client.on("*", lambda _, envelope: say("push", envelope=envelope))
        client.start()

    async def opened(self, _: str, timeout: float) -> Any:
        return await self.client.opened(timeout)

    async def request(self, handle: str, action: str, data: Json, ack: bool = False, **options: Any) -> Any:
        accepted = (lambda: say("accepted", id=handle)) if ack else None
        return await self.client.request(action, data, on_accepted=accepted, **options)

    async def stream(self, _: str, stream: str) -> None:
        async for envelope in self.client.stream(stream):
            say("streamed", envelope=envelope)

    async def view(self, _: str, stream: str, action: str, data: Json) -> None:
        async def load() -> Json:
            say("load", stream=stream)
            return await self.client.request(action, data)

        async for update in self.client.open_view(stream, load):
            if isinstance(update, Reset):
                say("reset", stream=stream, seq=update.seq, state=update.state)
            else:
                say("change", stream=stream, seq=update.seq, envelope=update.envelope)

    async def token(self, _: str, token: str = "", error: str = "") -> None:
        asked = self._tokens_asked.popleft()
        if error:
            asked.set_exception(RuntimeError(error))
        else:
            asked.set_result(token)

    async def close(self, _: str) -> None:
        if hasattr(self, "client"):
            await self.client.close()

    async def obey(self, do: str, id: str, **particulars: Any) -> None:
        try:
            answer = await getattr(self, do)(id, **particulars)
            say("answer", id=id, data=answer or {})
        except TowpathError as error:
            say("failed", id=id, error=plain(error))

    async def _token(self) -> str:
        asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tokens_asked.append(asked)
        say("token")
        return await asked

    def _state(self, state: str, error: TowpathError | None) -> None:
        connection = self.client.connection or {}
        say("state", state=state, gateway_id=connection.get("gateway_id"), error=error and plain(error))


async def main() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: say("unhandled", what=str(context)))
    sys.unraisablehook = lambda what: say(
        "unhandled", what=f"{what.err_msg} {what.exc_value!r} {what.object!r}"
    )
    commands = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    driver, obeying = Driver(), set[asyncio.Task[None]]()
    async for line in commands:
        obeying.add(asyncio.create_task(driver.obey(**json.loads(line))))
    await asyncio.gather(*obeying)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        say("unhandled", what=f"still running after close: {task!r}")


asyncio.run(main())
