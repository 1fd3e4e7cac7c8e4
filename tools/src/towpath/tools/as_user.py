"""``towpath request`` and ``towpath listen``: Towpath as a user has it, from a terminal.

Guarantees: a gateway that cannot be reached, or refuses the token, is one line within seconds; text of other users
cannot move the cursor or change what a terminal shows (:mod:`~towpath.tools.visible`).
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from towpath.client import Client, Envelope, Retry, TowpathError, connect
from towpath.protocol.names import shown
from towpath.tools.data_folder import DataFolder
from towpath.tools.token import secret_of, sign
from towpath.tools.trouble import Interrupted, Trouble
from towpath.tools.visible import as_json

_CONNECT_SECONDS: Final = 15.0


class BadData(Trouble):
    """The data of a request is not a JSON object."""

    status = 2


class NoGateway(Trouble):
    """It is not known where a gateway is, or none can be reached there."""


class Refused(Trouble):
    """The request was answered with an error."""


def request(
    action: str,
    data: str,
    *,
    user: str,
    scope: str | None,
    key: str | None,
    seconds: float,
    gateway: str | None,
    folder: Path,
    as_lines: bool,
) -> None:
    """Send one request as ``user`` and print the data of its answer.

    Args:
        data: A JSON object, or ``-`` to read one from standard input.
        seconds: Time limit of the answer.
        as_lines: One line of JSON, also for an error.

    Raises:
        BadData, BadUser, BadSetting, NoGateway: Nothing was sent.
        Refused: It was answered with an error, or not in time.
    """
    payload = _payload(sys.stdin.read() if data == "-" else data)

    async def ask() -> dict[str, Any]:
        async with _connected(user, scope, gateway, DataFolder(folder)) as client:
            return await client.request(action, payload, key=key, timeout=seconds)

    try:
        answer = asyncio.run(ask())
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the request may have taken effect") from None
    except TowpathError as error:
        if as_lines:
            _print(as_json(_error_data(error)))
            sys.exit(Refused.status)
        raise Refused(_in_one_line(error)) from None
    _print(as_json(answer, indent=None if as_lines else 2))


def listen(
    actions: Collection[str],
    *,
    user: str,
    scope: str | None,
    gateway: str | None,
    folder: Path,
    as_lines: bool,
) -> None:
    """Print the pushes to ``user`` until Ctrl-C, or until the reader of standard output is gone.

    Args:
        actions: Only pushes with these actions; if empty, all but the gateway's own (``session.…``).
        as_lines: The whole envelope, one line of JSON each.

    Raises:
        BadUser, BadSetting, NoGateway
    """

    def show(_: Any, envelope: Envelope) -> None:
        action = envelope["action"]
        if action in actions or not (actions or action.startswith("session.")):
            _print(as_json(envelope) if as_lines else _line(envelope))

    try:
        asyncio.run(_listen(user, scope, gateway, DataFolder(folder), show))
    except KeyboardInterrupt:
        return
    except TowpathError as error:
        raise Refused(_in_one_line(error)) from None


async def _listen(
    user: str,
    scope: str | None,
    gateway: str | None,
    folder: DataFolder,
    show: Callable[[Any, Envelope], None],
) -> None:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_state(state: str, error: TowpathError | None) -> None:
        _say(f"{state}" if error is None else f"{state}: {_in_one_line(error)}")
        if error is not None and not closed.done():
            closed.set_exception(error)

    def on_error(error: BaseException) -> None:
        # A reader of ours that left, as `head` does: there is nothing to print for.
        if isinstance(error, BrokenPipeError) and not closed.done():
            closed.set_exception(KeyboardInterrupt())

    # The listener is set before the connection exists, so that the first push is shown as well.
    async with _connected(user, scope, gateway, folder, lambda client: client.on("*", show)) as client:
        _say(f"listening as {shown(user)}; Ctrl-C ends it")
        client.on_state(on_state)
        client.on_error(on_error)
        await closed


@asynccontextmanager
async def _connected(
    user: str,
    scope: str | None,
    gateway: str | None,
    folder: DataFolder,
    prepare: Callable[[Client], object] = lambda client: None,
) -> AsyncIterator[Client]:
    """A connection as ``user``; the first failure to connect is the last, for a person waits."""
    secret = secret_of(folder)
    sign(user, secret)  # A name that cannot be used is reported before anything is opened.
    url = gateway or _gateway_of(folder)
    try:
        client = connect(url, token=lambda: sign(user, secret, scope=scope))
    except TowpathError as error:
        raise NoGateway(f"--gateway {shown(url)}: {shown(error.message)}") from None
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_retry(retry: Retry) -> None:
        if not failed.done():
            failed.set_result(retry.reason)

    off = client.on("retry", on_retry)
    ignored = client.on_error(lambda error: None)  # Else it is logged; the reason is that of the retry.
    prepare(client)
    client.start()
    opening = asyncio.ensure_future(client.opened(_CONNECT_SECONDS))
    try:
        waited: list[asyncio.Future[Any]] = [opening, failed]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            raise NoGateway(f"{shown(url)}: no connection: {shown(failed.result())}; is the gateway running?")
        opening.result()
        off()
        ignored()
        yield client
    finally:
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, TowpathError):
            await opening
        await client.close()


def _gateway_of(folder: DataFolder) -> str:
    if (dev := folder.running()) is None:
        raise NoGateway(
            f"no `towpath dev` runs in {folder}: start it, or name a gateway: --gateway ws://127.0.0.1:8080/ws"
        )
    return dev.gateway


def _payload(text: str) -> dict[str, Any]:
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error) or "it is nested too deeply"
        raise BadData(
            f"data {shown(text[:70])!a} is not JSON ({said}): write it as '{{\"limit\": 5}}'"
        ) from None
    if not isinstance(payload, dict):
        raise BadData(f"data {shown(text[:70])!a} is not a JSON object: write it as '{{\"limit\": 5}}'")
    return payload


def _error_data(error: TowpathError) -> dict[str, Any]:
    known = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "details": error.details,
        "retry_after_ms": error.retry_after_ms,
        "trace_id": error.trace_id,
    }
    return {"error": {name: value for name, value in known.items() if value is not None}}


def _in_one_line(error: TowpathError) -> str:
    fields = (error.details or {}).get("fields")
    problems = [
        f"{one.get('field')}: {one.get('problem')}"
        for one in (fields if isinstance(fields, list) else [])
        if isinstance(one, dict)
    ]
    text = f"{error.code}: {error.message}" + (f" ({'; '.join(problems)})" if problems else "")
    return shown(" ".join(text.split()))


def _line(envelope: Envelope) -> str:
    now = datetime.now().astimezone()
    position = (
        f" {envelope['stream']}#{envelope['seq']}" if "stream" in envelope and "seq" in envelope else ""
    )
    return f"{now:%H:%M:%S} {shown(envelope['action'] + position)} {as_json(envelope['data'])}"


def _print(line: str) -> None:
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"towpath: {text}\n")
        sys.stderr.flush()
