"""A service on servicekit that keeps nothing: it answers ``echo.say`` with what was said."""

import asyncio
from typing import Any, Final

from pydantic import BaseModel

from towpath.protocol.messages import Session
from towpath.servicekit import Handler, Outcome, Service, ServiceSettings, run, serve_domain


class Say(BaseModel):
    """The data of ``echo.say``."""

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
