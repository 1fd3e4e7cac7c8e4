"""A client steers neither the recording of traces, nor labels of metrics, nor lines of logs, nor ids of errors."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from tests.faults.conftest import StartSystem
from towpath.servicekit.installed import installed_services
from towpath.testkit.client import WireClient
from towpath.testkit.collector import a_collector
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System

from .trial import Trial

_THEIR_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
#: Each would begin a line, name an event or a label, or move a terminal's cursor, if anything wrote it as it came.
_TEXTS: Final = (
    '\n{"event":"forged","level":"info"}\n', '"}\n{"event":"forged"}', "\x1b[2J\x1b[1A", "\u202egnp.exe",
    "\u2028forged", 'x"} 1\nforged_total{a="b', "%s%n{0}", "\0", "a" * 3_000, "\r\nforged: 1", "forged",
)  # fmt: skip
_ACTIONS: Final = (
    "chat.send", "chat.join", "chat.create", "chat.history", "chat.forged", "order.get", "order.submit",
    "order.forged", "forged.label", "forged_domain_{n}.go", "session.refresh", "session.forged", "service.alive",
    "ping", "error",
)  # fmt: skip
_AT_ONCE: Final = 50
_DECLARED: Final = frozenset(
    word
    for service in installed_services()
    for word in (service.definition().domain, *service.definition().commands, *service.definition().events)
)
#: Log lines that programs may write of their own accord meanwhile, or sampled: one a minute and kind.
_LINES: Final = 40


@pytest.mark.parametrize(
    "count",
    [pytest.param(1_000, marks=pytest.mark.abuse_short, id="short"), pytest.param(10_000, id="long")],
)
async def test_a_client_steers_neither_recording_nor_labels_nor_logs_nor_error_ids(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial, count: int
) -> None:
    async with trial.door("steering of traces, metric labels, log lines and error ids by a client") as door:
        async with a_collector() as collector:
            # The share is 0, so a span that arrives was recorded because a client wanted it.
            # The rates are not under test: one client asks everything.
            system = await start_system(rabbitmq, otlp_endpoint=collector.url, trace_ratio=0, **LOAD_RATES)
            programs = [*system.gateways, system.chat, system.orders]
            await _ask(system, list(_requests(trial.seed)))
            labels = await _labels(programs)
            lines = {program.name: len(program.output.splitlines()) for program in programs}
            for text in _TEXTS:
                door.refused(await _knock(system, text) != 101, f"a handshake with {text!r} in each header")
                with contextlib.suppress(InvalidStatus):  # some names are refused, and none may steer
                    await _ask(system, list(_requests(trial.seed)), user=text[:100])
            answers = await _ask(system, list(_requests(trial.seed, count)))
            # Domains and actions that services declare are their own words: each shows once it has been used.
            grown = {label for label in await _labels(programs) - labels if label[2] not in _DECLARED}
            logged = [
                text for program in programs for text in program.output.splitlines()[lines[program.name] :]
            ]
            for program in programs:
                await program.terminate()  # what it recorded is sent by then
        given: set[str] = set()
        for answer in answers:
            door.refused(_is_of_the_server(answer, given), f"the trace or the id of {answer}")
        door.expect(len(answers) == count, f"{len(answers):,} of {count:,} requests were answered")
        door.expect(len(given) > count / 4, f"{len(given):,} answers with an id")
        door.expect(not collector.spans, f"{len(collector.spans)} spans were recorded")
        door.expect(not grown, f"new labels: {sorted(grown)[:5]}")
        door.expect(len(logged) <= _LINES, f"{len(logged)} log lines")
        for text in logged:
            door.expect(_is_ours(text), f"a log line is not one of ours: {text[:200]!r}")


def _is_of_the_server(answer: dict[str, Any], given: set[str]) -> bool:
    """Whether the server chose its trace, unsampled, and the id of its error, which it has not ``given`` before."""
    trace, own = answer.get("traceparent", "-00"), answer["data"].get("trace_id")
    if _THEIR_TRACE in trace or not trace.endswith("-00") or own == _THEIR_TRACE or own in given:
        return False
    if own is not None:
        given.add(own)
    return True


def _requests(seed: str, count: int = 1) -> Iterator[dict[str, Any]]:
    chance = random.Random(f"{seed} steering")
    for number in range(count):
        text = chance.choice(_TEXTS)
        data = {
            name: chance.choice(_TEXTS)
            for name in ("room", "text", "order_id", "amount", "token", "user", text)
        }
        yield {
            "action": chance.choice(_ACTIONS).format(n=number),
            "data": data,
            "msg_id": f"forged.{number}",
            "key": f"forged:{number}",
            "traceparent": chance.choice(
                (
                    f"00-{_THEIR_TRACE}-00f067aa0ba902b7-01",
                    f"cc-{_THEIR_TRACE}-00f067aa0ba902b7-01-x",
                    text[:100],
                )
            ),
            "tracestate": chance.choice(("forged=1", text[:500], None)),
        }


async def _knock(system: System, text: str) -> int | None:
    """The status of a handshake whose every header has ``text``; ``None`` if the gateway closed without one."""
    head = (
        f"GET /ws?forged={text} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Origin: {text}\r\nUser-Agent: {text}\r\nX-Forwarded-For: {text}\r\nAuthorization: Bearer {text}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", system.gateways[0].settings["TOWPATH_PORT"])
    try:
        writer.write(head.encode())
        async with asyncio.timeout(20):
            words = (await reader.readline()).split()
        return int(words[1]) if len(words) > 1 else None
    except ConnectionError:
        return None
    finally:
        writer.close()


async def _ask(system: System, requests: Sequence[dict[str, Any]], user: str = "eve") -> list[dict[str, Any]]:
    """The answers to ``requests`` of one user, some at a time."""
    answers = []
    async with system.connect(user) as client:
        for start in range(0, len(requests), _AT_ONCE):
            some = requests[start : start + _AT_ONCE]
            for request in some:
                await client.send(**request)
            answers += await asyncio.gather(*(_answer(client, request["msg_id"]) for request in some))
            client.frames.clear()
    return answers


async def _answer(client: WireClient, msg_id: str) -> dict[str, Any]:
    return await client.answer(msg_id, timeout=60)


async def _labels(programs: Sequence[Process]) -> set[tuple[str, str, str]]:
    """Each name of a metric with each label and value, of all programs."""
    found = set()
    async with ClientSession() as http:
        for program in programs:
            async with http.get(f"{program.admin_url}/metrics") as response:
                text = await response.text()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found |= {(sample.name, label, value) for label, value in sample.labels.items()}
                    found.add((sample.name, "", ""))
    return found


def _is_ours(text: str) -> bool:
    """Whether a log line is one JSON object with an event of ours and without letters that a terminal obeys."""
    try:
        event = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(event, dict) and event.get("event") != "forged" and text.isascii() and text.isprintable()
    )
