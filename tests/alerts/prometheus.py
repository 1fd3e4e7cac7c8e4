"""A Prometheus with deploy's alerts, for which time runs faster: a minute of a window or a wait is two seconds.

Guarantees:

* The alerts are those of ``deploy/prometheus/alerts.yml``; only durations are divided: those in brackets, after
  ``offset`` and in ``for``, and the age that the alert is about (:data:`AGES`). All other thresholds stay: rates are
  per second.
* It scrapes and evaluates twice a second, so that a window of a minute has four samples, as in production.
* A series has the job of deploy's ``prometheus.yml``, and an instance that a person can read: ``gateway-1``.
"""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.tools.packages import Program

ALERTS: Final = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
PROMETHEUS: Final = Program("Prometheus", "prometheus", ("prometheus",))
#: How much faster time runs.
FACTOR: Final = 30
#: Gauges that show how old something is, in seconds, and grow while a fault lasts.
AGES: Final = ("outbox_lag_seconds", "jwks_age_seconds")
#: Samples of one series in a picture.
_POINTS: Final = 120
_STEP: Final = "500ms"
_MILLISECONDS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000}


def faster(duration: str, factor: float = FACTOR) -> str:
    """A duration of PromQL, divided by ``factor``."""
    return f"{int(duration[:-1]) * _MILLISECONDS[duration[-1]] / factor:.0f}ms"


def faster_rules(ages: float) -> dict[str, Any]:
    """The alerts, in fast time.

    Args:
        ages: The divisor of thresholds of :data:`AGES`, and of durations after ``offset``.
    """
    rules: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = faster(rule["for"])
            rule["expr"] = re.sub(r"(?<=\[)\d+[smh](?=\])", lambda found: faster(found[0]), rule["expr"])
            rule["expr"] = re.sub(r"(?<=offset )\d+[smh]", lambda found: faster(found[0], ages), rule["expr"])
            if any(age in rule["expr"] for age in AGES):
                rule["expr"] = re.sub(r"(?<=> )\d+$", lambda found: f"{int(found[0]) / ages:g}", rule["expr"])
    return rules


class Prometheus:
    """A running Prometheus."""

    def __init__(self, process: Process, port: int, targets: Path, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{port}"
        self._targets = targets
        self._session = session
        self._jobs: dict[str, list[dict[str, Any]]] = {}

    @classmethod
    async def start(cls, program: Path, processes: Processes, folder: Path, *, ages: float = FACTOR) -> Self:
        """Start it; it watches nothing yet.

        Args:
            ages: See :func:`faster_rules`.
        """
        (folder / "alerts.yml").write_text(yaml.safe_dump(faster_rules(ages)))
        targets = folder / "targets.json"
        targets.write_text("[]")
        found = [{"files": [str(targets)], "refresh_interval": "1s"}]
        configuration = {
            "global": {"scrape_interval": _STEP, "scrape_timeout": _STEP, "evaluation_interval": _STEP},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": "towpath", "file_sd_configs": found}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        process = processes.launch(
            str(program),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{port}",
            name="prometheus",
        )
        self = cls(process, port, targets, aiohttp.ClientSession())
        await eventually(self._is_up)
        return self

    async def close(self) -> None:
        """Forget it; the process ends with the test."""
        await self._session.close()

    def watch(self, job: str, processes: Sequence[Process]) -> None:
        """Scrape these programs under the name of a job, and no others."""
        name = job.removeprefix("towpath-")
        self._jobs[job] = [
            _target(process.admin_url.removeprefix("http://"), job=job, instance=f"{name}-{number}")
            for number, process in enumerate(processes, start=1)
        ]
        self._write_targets()

    def watch_rabbitmq(self, port: int) -> None:
        """Scrape a RabbitMQ that shows its metrics on ``port``, as the two jobs of ``prometheus.yml`` do."""
        address = f"127.0.0.1:{port}"
        detailed = {"__metrics_path__": "/metrics/detailed", "__param_family": "queue_coarse_metrics"}
        self._jobs["rabbitmq"] = [_target(address, job="rabbitmq", instance="rabbitmq")]
        self._jobs["rabbitmq-queues"] = [
            _target(address, job="rabbitmq-queues", instance="rabbitmq", **detailed)
        ]
        self._write_targets()

    async def sees_all(self) -> None:
        """Wait until every program has been scraped, and all alerts were evaluated with that a few times."""
        number = sum(map(len, self._jobs.values()))

        async def seen() -> bool:
            return len(await self.query("up == 1")) == number

        await eventually(seen)
        await self.evaluates(6)

    async def evaluates(self, times: int) -> None:
        """Wait until all alerts have been evaluated so many times more."""
        before = await self._evaluations()

        async def enough() -> bool:
            after = await self._evaluations()
            return all(after[group] >= before[group] + times for group in before)

        await eventually(enough, timeout=30 + times, every=0.1)

    async def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = (await self._ask("/api/v1/alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def ever_fired(self) -> set[str]:
        """The names of the alerts that have fired since its start."""
        series = await self.query('max_over_time(ALERTS{alertstate="firing"}[1d])')
        return {one["metric"]["alertname"] for one in series}

    async def fires(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until these alerts fire.

        Raises:
            AssertionError: They do not; the message has those that do.
        """

        async def all_fire() -> bool:
            firing = await self.firing()
            missing = set(names) - firing
            assert not missing, f"{missing} should fire; {firing or 'nothing'} does"
            return True

        await eventually(all_fire, timeout=timeout, every=0.2)

    async def ends(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until these alerts do not fire any more."""

        async def none_fires() -> bool:
            return not set(names) & await self.firing()

        await eventually(none_fires, timeout=timeout, every=0.2)

    async def over_time(self, expression: str, seconds: float) -> list[dict[str, Any]]:
        """The series of an expression of the dashboard over the last seconds; rates are over five fast minutes."""
        now = time.time()
        found: list[dict[str, Any]] = (
            await self._ask(
                "/api/v1/query_range",
                query=expression.replace("$__rate_interval", faster("5m")),
                start=str(now - seconds),
                end=str(now),
                step=f"{seconds / _POINTS:g}",
            )
        )["result"]
        return found

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        found: list[dict[str, Any]] = (await self._ask("/api/v1/query", query=expression))["result"]
        return found

    def _write_targets(self) -> None:
        written = self._targets.with_suffix(".new")
        written.write_text(json.dumps([target for targets in self._jobs.values() for target in targets]))
        written.rename(self._targets)

    async def _evaluations(self) -> dict[str, int]:
        async with self._session.get(f"{self._url}/metrics") as page:
            text = await page.text()
        found = re.findall(
            r'^prometheus_rule_group_iterations_total\{rule_group="([^"]+)"\} (\S+)$', text, re.M
        )
        return {group: int(float(count)) for group, count in found}

    async def _is_up(self) -> bool:
        assert self._process.status is None, self._process.output
        try:
            async with self._session.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        async with self._session.get(f"{self._url}{path}", params=parameters) as answer:
            read = await answer.json()
        assert read["status"] == "success", read
        data: dict[str, Any] = read["data"]
        return data


def _target(address: str, **labels: str) -> dict[str, Any]:
    return {"targets": [address], "labels": labels}
