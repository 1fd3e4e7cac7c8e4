"""The conditions of a figure: machine and versions."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from towpath.tools.rabbitmq_node import RabbitNode


def facts(broker: RabbitNode) -> dict[str, str]:
    """Title → text."""
    packages = ("websockets", "aio-pika", "uvloop", "picows", "python-socketio")
    return {
        "Day": time.strftime("%Y-%m-%d"),
        "Machine": f"{os.cpu_count()} cores of {_processor()}, {_memory_gib():.0f} GiB, {platform.system()} "
        f"{platform.release().partition('-')[0]}",
        "RabbitMQ": broker.evaluate("rabbit_misc:version()").strip('"'),
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {version(name)}" for name in packages),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
