"""The service under test of the W3C trace-context judge: it calls back over HTTP in the trace of its command.

It is what a service that calls another one would be: an outgoing request carries the trace of the command, with a
parent id of its own (https://www.w3.org/TR/trace-context-2/#mutating-the-traceparent-field).
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Final

import aiohttp
import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.messages import Session
from towpath.servicekit import (
    Connect,
    Handler,
    KitTables,
    Outcome,
    Request,
    Service,
    ServiceSettings,
    Storage,
    connect,
    run,
    serve_domain,
)
from towpath.servicekit.runtime.trace_context import read_traceparent

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)


class Hop(BaseModel):
    """One call: the body ``arguments`` is sent to ``url``."""

    url: Annotated[str, Field(max_length=2_000)]
    arguments: list[Any]


class Calls:
    """Unit of work of the judge's service: it makes the calls of the batch."""

    def __init__(self, connection: AsyncConnection) -> None:
        """Nothing is stored."""

    async def load(self, requests: Sequence[Request]) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
            for request in requests:
                if isinstance(request.payload, Hop):
                    await self._call(http, request, request.payload)

    async def save(self) -> None:
        """Nothing is stored."""

    @staticmethod
    async def _call(http: aiohttp.ClientSession, request: Request, hop: Hop) -> None:
        trace = read_traceparent(request.traceparent)
        assert trace is not None, "a request always has a trace"
        headers = {"traceparent": str(trace._replace(parent_id=secrets.token_hex(8)))}
        if request.tracestate is not None:
            headers["tracestate"] = request.tracestate
        async with http.post(hop.url, json=hop.arguments, headers=headers) as response:
            response.raise_for_status()


def hop(request: Hop, session: Session, calls: Calls) -> Outcome:
    """The call was made while the unit of work was loaded."""
    return Outcome()


_KIT: Final = KitTables.define(sa.MetaData(), "judge")
JUDGE: Final = Service(
    name="judge",
    domain="judge",
    commands={"judge.hop": Handler(Hop, hop, changes=False)},
    storage=Storage(_KIT.inbox, _KIT.streams, Calls),
)


async def serve(settings: ServiceSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run it until ``stop`` is set."""
    await serve_domain(JUDGE, settings, stop, connect)


if __name__ == "__main__":
    run("judge", serve, ServiceSettings)
