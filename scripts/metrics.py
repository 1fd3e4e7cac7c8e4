"""Writes docs/reference/metrics.md from the running programs: ``make docs``. A test fails when the two differ.

Each program is run here, on a broker in memory, and asked for its ``/metrics``. So a metric is on the page exactly if
a program shows it, from its start and without any load.
"""

import asyncio
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from towpath.gateway.settings import GatewaySettings
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.broker import Broker
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.testkit.certificates import Authority
from towpath.testkit.issuer import an_issuer
from towpath.testkit.processes import free_port
from towpath.testkit.tokens import AUTH_SETTINGS

PAGE: Final = Path(__file__).parent.parent / "docs/reference/metrics.md"
_START_SECONDS: Final = 30.0
#: A label with more values than this is not closed, or not worth a list.
_VALUES_MAX: Final = 16
#: Their values come from outside; at most 100 are shown, the rest as ``other``.
_OPEN: Final = frozenset({"domain", "action", "issuer", "effect"})

HEAD: Final = """\
# Metrics

Every program serves them at `/metrics` of its [admin port](settings.md), in the text format of Prometheus. This page
is written by `make docs` from the running programs, and a test compares it with real ones.

- **Each metric is there from the start**, with 0: an alert on it never lacks data.
- **Labels are bounded.** None is the id of a user, a connection or a message. Of `domain` and `action` at most 100
  values are shown, the rest as `other`.
- **No prefix.** `connection_active` and `messages_received_total` are names that dashboards of users know already,
  and every sample that Prometheus stores has the label `job` of its program. A prefix on some of them would be worse
  than on none.
- **Times** are in seconds. `push_delay_seconds` compares the clocks of two machines: keep them synchronised.
- Counting is one addition in memory. [Traces](../operations/traces.md) cost more, and are sampled.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one program.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: Each with its values as they are at the start.
    """

    name: str
    kind: str
    meaning: str
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Program:
    """A program, and what it is run with.

    Attributes:
        setting: Without it some of the metrics are not there; empty for a program with its defaults.
    """

    name: str
    package: str
    settings: BrokerSettings
    setting: str = ""


def read(exposition: str) -> dict[str, Row]:
    """The metrics of a program by name, from the text of its ``/metrics``."""
    rows = [_row(family) for family in text_string_to_metric_families(exposition)]
    return {row.name: row for row in rows}


def _row(family: Metric) -> Row:
    labels: dict[str, set[str]] = {}
    for sample in family.samples:
        for name, value in sample.labels.items():
            if name != "le":
                labels.setdefault(name, set()).add(value)
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Row(name, family.type, family.documentation, {key: frozenset(of) for key, of in labels.items()})


def render() -> str:
    """The page."""
    exposed = asyncio.run(_expose())
    plain = {program.name: rows for program, rows in exposed if not program.setting}
    only_with: dict[str, set[str]] = {}
    found: dict[str, dict[str, Row]] = {}
    for program, rows in exposed:
        for row in rows.values():
            if row.name not in plain[program.name] and program.setting:
                only_with.setdefault(row.name, set()).add(program.setting)
            found.setdefault(row.name, {}).setdefault(program.name, row)
    services = [name for name in plain if name not in ("gateway", "ingress")]
    lines = [HEAD, "| metric | type | labels | of | meaning |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(found):
        by_program = found[name]
        lines.append(
            f"| `{name}` | {next(iter(by_program.values())).kind} | {_labels(by_program.values())} "
            f"| {_programs(set(by_program), services)} | {_meaning(by_program, only_with.get(name, set()))} |"
        )
    return "\n".join(lines) + "\n"


def listed(page: str, program: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The metrics that ``page`` lists for ``program`` run with its defaults: name → type, names of labels."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for line in page.splitlines():
        if not line.startswith("| `"):
            continue
        name, kind, labels, programs, meaning = (cell.strip() for cell in line.strip("| ").split(" | "))
        of = programs.split(", ")
        is_service = program not in ("gateway", "ingress")
        if (program in of or (is_service and "services" in of)) and "Only with" not in meaning:
            found[name.strip("`")] = kind, frozenset(re.findall(r"`(\w+)`(?=:|;|$)", labels))
    return found


def _labels(rows: Iterable[Row]) -> str:
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, of in row.labels.items():
            values.setdefault(name, set()).update(of)
    return (
        "; ".join(
            f"`{name}`" if name in _OPEN or len(of) > _VALUES_MAX else f"`{name}`: {', '.join(sorted(of))}"
            for name, of in sorted(values.items())
        )
        or "–"
    )


def _programs(of: set[str], services: list[str]) -> str:
    if of.issuperset(services):
        return ", ".join([*sorted(of - set(services)), "services"])
    return ", ".join(sorted(of))


def _meaning(by_program: Mapping[str, Row], settings: set[str]) -> str:
    texts = dict.fromkeys(row.meaning for row in by_program.values())
    text = "; ".join(texts).replace("|", "\\|").replace("<", "&lt;")
    return f"{text}. Only with `{min(settings)}`" if settings else text


async def _expose() -> list[tuple[_Program, dict[str, Row]]]:
    with tempfile.TemporaryDirectory() as folder, capture_logs():
        async with an_issuer() as issuer:
            programs = list(_programs_in(Path(folder), issuer.url))
            ends: list[asyncio.Task[None]] = []
            # One starts after the other: Alembic migrates one database of a process at a time. They stop together.
            texts = [await _exposition(program, ends) for program in programs]
            await asyncio.gather(*ends)
    return [(program, read(text)) for program, text in zip(programs, texts, strict=True)]


def _programs_in(folder: Path, jwks_url: str) -> Iterator[_Program]:
    """Each program with its defaults, and again with each setting that brings metrics of its own."""
    issued = Authority(folder).issue("localhost")
    common: dict[str, Any] = {"drain_timeout": 0.5}

    def gateway(setting: str = "", **chosen: Any) -> _Program:
        ports = {"port": free_port(), "admin_port": free_port()}
        settings = GatewaySettings(**(common | ports | chosen))
        return _Program("gateway", "towpath.gateway", settings, setting)

    yield gateway(**AUTH_SETTINGS)
    yield gateway("TOWPATH_AUTH_JWKS_URL", auth_jwks_url=jwks_url)
    yield gateway(
        "TOWPATH_TLS_CERTIFICATE", tls_certificate=issued.certificate, tls_key=issued.key, **AUTH_SETTINGS
    )
    ports = {"port": free_port(), "admin_port": free_port()}
    yield _Program(
        "ingress", "towpath.ingress", IngressSettings(**(common | ports), api_keys=str(folder / "keys.json"))
    )
    for service in installed_services():
        if not (PAGE.parents[2] / "services" / service.name).is_dir():
            continue
        url = f"sqlite:///{folder}/{service.name}.db"
        model = service.settings()
        yield _Program(
            service.name,
            service.package,
            model(**common, admin_port=free_port(), database_url=url),
        )
        if "smtp_host" in model.model_fields:
            chosen: dict[str, Any] = {"smtp_host": "localhost", "smtp_from": "towpath@example.org"}
            yield _Program(
                service.name,
                service.package,
                model(**common, admin_port=free_port(), database_url=f"{url}.mails", **chosen),
                "TOWPATH_SMTP_HOST",
            )


async def _exposition(program: _Program, ends: list[asyncio.Task[None]]) -> str:
    """Run ``program`` until it is ready, and stop it; returns the text of its metrics.

    Args:
        ends: Gets the task that ends with it.
    """
    hub, stop = MemoryHub(), asyncio.Event()

    def connect(settings: BrokerSettings, name: str) -> AbstractAsyncContextManager[Broker]:
        return hub.connect(name=name, publish_timeout=settings.publish_timeout)

    serve = import_module(f"{program.package}.app").serve
    running: asyncio.Task[None] = asyncio.create_task(serve(program.settings, stop, connect))
    try:
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{program.settings.admin_port}"
            while not await _is_ready(session, url):
                if running.done():
                    running.result()
                await asyncio.sleep(0.02)
            async with session.get(f"{url}/metrics") as answer:
                return await answer.text()
    finally:
        stop.set()
        ends.append(running)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


if __name__ == "__main__":
    PAGE.write_text(render())
