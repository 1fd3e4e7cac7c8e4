"""Towpath with 1 % of its traces recorded, and sent to a collector that throws them away."""

from typing import Final

from bench.systems import tracing

SYSTEM: Final = tracing.system("traces_1", 0.01)
