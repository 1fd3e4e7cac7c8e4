"""Metrics for Prometheus and traces on opentelemetry-sdk, cheap enough to leave on.

The guarantees: :mod:`towpath.servicekit.runtime.metrics`, :mod:`towpath.servicekit.runtime.tracing`.
"""

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from towpath.servicekit.runtime.metrics import Counter, Distribution, Labelled, Metrics
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.tracing import OpenSpan, Traces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Counter", "Distribution", "Labelled", "OpenSpan", "Telemetry"]


class Telemetry(Metrics, Traces):
    """One program's metrics and traces; created in ``app.py`` and passed down."""

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        Metrics.__init__(self)
        Traces.__init__(self, service, settings)

    @classmethod
    @asynccontextmanager
    async def open(cls, service: str, settings: TelemetrySettings) -> "AsyncIterator[Telemetry]":
        """Telemetry; flushed on exit."""
        telemetry = cls(service, settings)
        try:
            yield telemetry
        finally:
            await asyncio.to_thread(telemetry.close)
