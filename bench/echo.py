"""A service on servicekit that keeps nothing: it answers ``echo.say`` with what was said."""

import asyncio
from typing import Any, Final

from pydantic import BaseModel

from towpath.protocol.messages import Session
from towpath.servicekit.outcome import Outcome
from towpath.servicekit.requests import Handler
from towpath.servicekit.run import run
from towpath.servicekit.service import Service, serve_domain
from towpath.servicekit.settings import ServiceSettings


class Say(BaseModel):
    """What ``echo.say`` takes."""

    text: str


def say(request: Say, session: Session, _: None) -> Outcome:
    """Answer with the same."""
    return Outcome(answer={"text": request.text})


ECHO: Final[Service[Any]] = Service(
    name="echo", domain="echo", commands={"echo.say": Handler(Say, say, changes=False)}
)


async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set."""
    await serve_domain(ECHO, settings, stop)


if __name__ == "__main__":
    run("echo", serve, ServiceSettings)
