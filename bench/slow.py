"""A service whose every request takes 5 ms: of a core (``slow.compute``), or of waiting (``slow.wait``).

It represents handlers that are the limit themselves, so that only more replicas help.
"""

import asyncio
import time
from typing import Any, Final

from pydantic import BaseModel

from towpath.protocol.messages import Session
from towpath.servicekit import Handler, Outcome, Service, ServiceSettings, run, serve_domain

#: The duration of a request, in seconds.
REQUEST_SECONDS: Final = 0.005


class Nothing(BaseModel):
    """The data of a request, without a meaning."""


def compute(request: Nothing, session: Session, _: None) -> Outcome:
    """Use a core for so long; what others use of it meanwhile does not count."""
    until = time.thread_time() + REQUEST_SECONDS
    while time.thread_time() < until:
        pass
    return Outcome(answer={})


def wait(request: Nothing, session: Session, _: None) -> Outcome:
    """Wait for so long, as for a slow device."""
    time.sleep(REQUEST_SECONDS)
    return Outcome(answer={})


SLOW: Final[Service[Any]] = Service(
    name="slow",
    domain="slow",
    commands={
        "slow.compute": Handler(Nothing, compute, changes=False),
        "slow.wait": Handler(Nothing, wait, changes=False),
    },
)


async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set."""
    await serve_domain(SLOW, settings, stop)


if __name__ == "__main__":
    run("slow", serve, ServiceSettings)
