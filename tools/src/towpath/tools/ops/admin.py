"""Admin pages: readiness and a few metrics of programs whose addresses are known."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from towpath.tools.trouble import Trouble

_SECONDS: Final = 5.0
_MAX_BYTES: Final = 4 * 1024 * 1024
#: Samples that are shown: sums over their labels, where there are any.
SHOWN: Final = (
    "connection_active",
    "broker_connected",
    "broker_blocked",
    "dead_letters_waiting",
    "outbox_waiting",
    "outbox_lag_seconds",
    "lane_waiting",
)


class BadAddress(Trouble):
    """An address of admin pages that cannot be used."""

    status = 2


@dataclass(frozen=True, slots=True)
class AdminPage:
    """The admin pages of one program.

    Attributes:
        failing: The checks of its readiness that fail.
        metrics: Those of :data:`SHOWN` that it has.
        error: Why it does not answer, if it does not.
    """

    url: str
    failing: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def problem(self) -> str | None:
        """The problem in a few words, if there is one."""
        if self.error is not None:
            return f"{self.url} does not answer: {self.error}"
        return f"{self.url} is not ready: {', '.join(self.failing)}" if self.failing else None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "url": self.url,
            "ready": self.error is None and not self.failing,
            "failing": list(self.failing),
            "error": self.error,
            "metrics": dict(self.metrics),
        }


async def fetch(urls: Sequence[str]) -> list[AdminPage]:
    """The admin pages at these addresses, such as ``http://gateway-1:9090``.

    Raises:
        BadAddress
    """
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise BadAddress(f"--admin {url[:100]!a}: must be an address such as http://127.0.0.1:9090")
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        return list(await asyncio.gather(*(_fetch(http, url.rstrip("/")) for url in urls)))


async def _fetch(http: aiohttp.ClientSession, url: str) -> AdminPage:
    try:
        async with http.get(f"{url}/health/ready") as ready:
            answer = await ready.json()
        async with http.get(f"{url}/metrics") as metrics:
            text = (await metrics.content.read(_MAX_BYTES)).decode("utf-8", "replace")
    except TimeoutError:
        return AdminPage(url, error=f"no answer within {_SECONDS:g} s")
    except (aiohttp.ClientError, ValueError, OSError) as error:
        return AdminPage(url, error=" ".join(str(error).split())[:200] or type(error).__name__)
    failing = answer.get("failing", []) if isinstance(answer, dict) else ["(no answer of Towpath)"]
    return AdminPage(url, [str(one)[:100] for one in failing], _shown(text))


def _shown(text: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in SHOWN:
                    sums[sample.name] = sums.get(sample.name, 0.0) + float(sample.value)
    except ValueError:  # not the format of Prometheus, or cut at its limit
        return sums
    return sums
