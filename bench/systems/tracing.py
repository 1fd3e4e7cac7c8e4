"""Towpath that records traces: for the systems ``traces_1`` and ``traces_100``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from bench.systems import towpath
from bench.systems.interface import Running, Setup, System, launch_module, serving
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.testkit.processes import free_port


def system(name: str, ratio: float) -> System:
    """Towpath that records the share ``ratio`` of its traces, all of it if that is 1."""

    @asynccontextmanager
    async def start(setup: Setup) -> AsyncIterator[Running]:
        port = free_port()
        # Its CPU is in no role: in production the collector has a machine of its own. Here it shares the cores.
        collector = launch_module(setup, "bench.peers.collector", "collector", bench_port=port)
        await serving(collector)
        async with towpath.start(
            setup,
            otlp_endpoint=f"http://127.0.0.1:{port}",
            trace_ratio=ratio,
            traces_per_second=0 if ratio == 1 else TelemetrySettings().traces_per_second,
        ) as running:
            yield running

    return replace(
        towpath.SYSTEM,
        name=name,
        title=f"Towpath, traces of {ratio:.0%}",
        start=start,
        differences=[
            f"{ratio:.0%} of the traces are sent to a collector, which throws them away",
            *towpath.SYSTEM.differences,
        ],
    )
