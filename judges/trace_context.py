"""W3C's trace-context harness: every context it sends passes a gateway, RabbitMQ and a service, and returns.

The harness (github.com/w3c/trace-context, folder test) sends HTTP requests with good and bad headers to a service
under test, and looks at the headers of the requests that this service makes in turn. Here an HTTP door hands each
request to a client of a gateway; the gateway continues traces (``TOWPATH_TRACE_CLIENTS=continue``), and
:mod:`judges.trace_service` makes the requests. All tests of level 2 run, the strict ones included.

The door does the parts that HTTP has and an envelope has not: header names without regard to case, and several
headers of one name, which it joins by commas as RFC 9110, section 5.3, says.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from aiohttp import web

from towpath.testkit import rabbitmq
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

#: Seconds that the harness waits for one answer.
_PATIENCE: Final = 10
_HEADERS: Final = ("traceparent", "tracestate")


class Outcomes(unittest.TestResult):
    """The outcome of each test of the harness, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.cases: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "ok")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "failed", err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "error", err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, "skipped")

    def _note(self, test: unittest.TestCase, outcome: str, err: Any = None) -> None:
        name = ".".join(test.id().split(".")[-2:])
        self.cases[name] = outcome
        if err is not None:
            sys.stdout.write(f"{name}: {err[1]}\n")


async def judge(folder: Path) -> dict[str, str]:
    """Run the harness of ``folder`` against a system of our own."""
    with rabbitmq.running() as node, Processes() as processes, tempfile.TemporaryDirectory() as scratch:
        async with Rabbit.on(node) as broker, _door(broker, processes, Path(scratch)) as url:
            return await asyncio.to_thread(_run, folder, url)


@asynccontextmanager
async def _door(broker: Rabbit, processes: Processes, folder: Path) -> AsyncIterator[str]:
    """The URL of an HTTP service whose requests go through Towpath."""
    system = System(broker, processes, folder)
    system.gateways = [system.launch_gateway(trace_clients="continue")]
    service = processes.launch(
        sys.executable,
        *("-m", "judges.trace_service"),
        name="judge",
        amqp_url=broker.url,
        database_url=f"sqlite:///{folder}/judge.db",
    )
    await asyncio.gather(*(process.ready() for process in (*system.gateways, service)))
    async with system.connect("harness") as client:

        async def pass_on(request: web.Request) -> web.Response:
            fields = {
                name: ",".join(values) for name in _HEADERS if (values := request.headers.getall(name, []))
            }
            for hop in await request.json():
                answer = await client.request(
                    "judge.hop",
                    {"url": hop["url"], "arguments": hop["arguments"]},
                    timeout=_PATIENCE,
                    **fields,
                )
                if answer["action"] != "judge.hop.ok":
                    raise web.HTTPBadGateway(text=json.dumps(answer))
            return web.json_response({})

        async with _serving(pass_on) as port:
            yield f"http://127.0.0.1:{port}/test"


@asynccontextmanager
async def _serving(handler: Any) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_post("/test", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _run(folder: Path, url: str) -> dict[str, str]:
    harness, port = _harness(folder, url), free_port()
    harness.client = harness.TestClient("127.0.0.1", port, _PATIENCE + 1)
    harness.server = harness.TestServer("127.0.0.1", port, _PATIENCE)
    outcomes = Outcomes()
    unittest.defaultTestLoader.loadTestsFromModule(harness).run(outcomes)
    return outcomes.cases


def _harness(folder: Path, url: str) -> Any:
    """The harness as a module. It reads its settings when it is imported."""
    os.environ.update(SERVICE_ENDPOINT=url, SPEC_LEVEL="2", STRICT_LEVEL="2")
    sys.path.insert(0, str(folder))
    found = importlib.util.spec_from_file_location("trace_context_harness", folder / "test.py")
    assert found is not None
    assert found.loader is not None
    module: ModuleType = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def main() -> None:
    """Write the outcome of each test to ``--output``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    cases = asyncio.run(judge(Path(os.environ["TRACE_CONTEXT"], "test").resolve()))
    asked.output.write_text(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main()
