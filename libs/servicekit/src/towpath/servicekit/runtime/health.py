"""Health and metrics over HTTP, for orchestrators and Prometheus: ``/health/live``, ``/health/ready``, ``/metrics``.

Live means that the event loop responds; it does not include the broker, so that a broker outage restarts no program.
Ready means that the program can do its work now.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from towpath.servicekit.runtime.listening import LISTEN_ERRORS, cannot_listen
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)


class Health:
    """Answers "are you ready" from named checks.

    Attributes:
        draining: True once the program stops; then it is not ready.
    """

    def __init__(self) -> None:
        self.draining = False
        self._checks: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, check: Callable[[], bool]) -> None:
        """Report not ready while ``check()`` is false; the response lists ``name``."""
        self._checks[name] = check

    def failing(self) -> list[str]:
        """The names of the checks that fail; empty when ready."""
        return (["draining"] if self.draining else []) + [
            name for name, check in self._checks.items() if not check()
        ]


@asynccontextmanager
async def serve_admin(host: str, port: int, health: Health, telemetry: Telemetry) -> AsyncIterator[int]:
    """Serve the admin pages from entry to exit; yields the port (useful with port 0).

    Raises:
        BadSetting: The port is in use, or the host is not an address of this machine; the error names which setting.
    """

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def ready(_: web.Request) -> web.Response:
        failing = health.failing()
        if failing:
            return web.json_response({"status": "not ready", "failing": failing}, status=503)
        return web.json_response({"status": "ready"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=telemetry.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    telemetry.gauge(
        "program_ready",
        "1 while the program can do its work: `/health/ready`",
        lambda: int(not health.failing()),
    )
    telemetry.gauge("asyncio_tasks", "Tasks of the program", lambda: len(asyncio.all_tasks()))
    app = web.Application()
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except LISTEN_ERRORS as error:
            raise cannot_listen(
                error, host, port, host_setting="TOWPATH_ADMIN_HOST", port_setting="TOWPATH_ADMIN_PORT"
            ) from None
        bound = runner.addresses[0][1]
        log.info("admin_listening", host=host, port=bound)
        yield bound
    finally:
        await runner.cleanup()
