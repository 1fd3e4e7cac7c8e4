"""The profile `observability`: Prometheus finds every program under the name that its alerts go by.

Grafana and Jaeger are not started here: tests of their files are in tests/test_alerts.py.
"""

import asyncio
from typing import Any, Final

import aiohttp
import pytest
import yaml

from towpath.testkit.eventually import eventually

from .compose import PROMETHEUS, ROOT, Compose

#: Seconds until what has changed is seen: names are asked for, and programs are scraped, every 15 s.
_SCRAPE_SECONDS: Final = 90.0
_PROGRAMS: Final = ("gateway", "chat", "orders", "inventory", "notifications", "ingress")


@pytest.fixture(scope="module")
def observed(compose: Compose) -> Compose:
    """All of it, with Prometheus."""
    compose.command("--profile=observability", "up", "--detach", "--wait", "--no-build", "prometheus")
    return compose


async def asked(compose: Compose, path: str) -> Any:
    """An answer of Prometheus' API."""
    url = f"http://{compose.address(PROMETHEUS)}/api/v1/{path}"
    async with aiohttp.ClientSession(raise_for_status=True) as http, http.get(url) as answer:
        return (await answer.json())["data"]


async def up(compose: Compose) -> dict[str, int]:
    """How many replicas of each job answer."""
    found = (await asked(compose, "query?query=sum by (job) (up)"))["result"]
    return {one["metric"]["job"]: int(one["value"][1]) for one in found}


async def test_prometheus_scrapes_each_program_and_the_proxy(observed: Compose) -> None:
    expected = {f"towpath-{name}": 2 if name == "gateway" else 1 for name in _PROGRAMS} | {"proxy": 1}

    async def all_are_scraped() -> bool:
        answering = await up(observed)
        assert {job: answering.get(job) for job in expected} == expected
        return True

    await eventually(all_are_scraped, timeout=_SCRAPE_SECONDS, every=1)


async def test_a_new_replica_is_scraped_without_a_change_of_its_configuration(observed: Compose) -> None:
    await asyncio.to_thread(observed.scale, chat=2)
    try:

        async def both() -> bool:
            return (await up(observed))["towpath-chat"] == 2

        await eventually(both, timeout=_SCRAPE_SECONDS, every=1)
    finally:
        await asyncio.to_thread(observed.scale, chat=1)


async def test_every_alert_of_the_file_is_loaded_and_can_be_evaluated(observed: Compose) -> None:
    written = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    names = {rule["alert"] for group in written for rule in group["rules"] if "alert" in rule}

    async def all_are_evaluated() -> bool:
        groups = (await asked(observed, "rules?type=alert"))["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        assert health.keys() == names
        assert set(health.values()) == {"ok"}, health
        return True

    await eventually(all_are_evaluated, timeout=_SCRAPE_SECONDS, every=1)
