"""Metrics of the running programs: those that the page lists, each from the start, and no id of a user in a label."""

import runpy
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts/metrics.py"))
PAGE = (ROOT / "docs/reference/metrics.md").read_text()
SPEAKERS = ("ana-of-the-harbour", "ben-of-the-harbour")


async def test_programs_show_exactly_the_metrics_of_the_page_and_no_user_in_them(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    system = System(rabbitmq, processes, tmp_path)
    system.gateways = [system.launch_gateway()]
    system.chat = system.launch_service("chat")
    for program in (*system.gateways, system.chat):
        await program.ready()
    for program, name in ((system.gateways[0], "gateway"), (system.chat, "chat")):
        shown = SCRIPT["read"](await exposition(program))
        assert {row.name: (row.kind, frozenset(row.labels)) for row in shown.values()} == SCRIPT["listed"](
            PAGE, name
        )

    async with system.connect(SPEAKERS[0]) as ana, system.connect(SPEAKERS[1]) as ben:
        for one in (ana, ben):
            await one.request("chat.join", {"room": "harbour"})
        await ana.request("chat.send", {"room": "harbour", "text": "Ahoy"})
        await ben.next("chat.message")
        await ana.request("chat.send", {"room": "nowhere", "text": "Ahoy"})
        gateway, chat = await exposition(system.gateways[0]), await exposition(system.chat)
    for text in (gateway, chat):
        assert not any(secret in text for secret in (*SPEAKERS, "harbour", "nowhere"))
    assert value(gateway, "requests_answered_total", domain="chat", outcome="ok") == 3
    assert value(gateway, "requests_answered_total", domain="chat", outcome="error") == 1
    assert value(gateway, "request_delay_seconds_count", domain="chat") == 4
    assert value(gateway, "push_delay_seconds_count", domain="chat") >= 2
    assert value(gateway, "broker_connected") == 1
    assert value(chat, "handler_seconds_count", action="chat.send") == 2
    assert value(chat, "unit_of_work_requests_count") >= 1
    assert value(chat, "database_pool_wait_seconds_count") >= 1
    assert value(chat, "partitions_unheld") == 0


async def exposition(program: Process) -> str:
    """The text of a program's ``/metrics``."""
    url = f"http://127.0.0.1:{program.settings['TOWPATH_ADMIN_PORT']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


def value(text: str, name: str, **labels: str) -> float:
    """The value of one sample."""
    [found] = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found
