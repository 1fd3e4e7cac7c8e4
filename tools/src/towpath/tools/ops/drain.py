"""``towpath drain``: stops one gateway as SIGTERM does, without access to its machine.

Guarantee: only the run of the gateway that answered before is stopped, never one that was started meanwhile.
"""

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from towpath.protocol.operators import Drain, GatewayReport, drain_key
from towpath.protocol.routes import PUSH, connection_key
from towpath.servicekit.broker.interface import Broker, Message, Unroutable
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.screen import plain
from towpath.tools.trouble import Trouble

_ANSWER_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.5


class NoGateway(Trouble):
    """There is no such gateway."""


class StillThere(Trouble):
    """It did not stop in time."""


class BadGateway(Trouble):
    """A name that no gateway can have."""

    status = 2


def drain(gateway: str, *, seconds: float, as_json: bool, data: Path) -> None:
    """Stop a gateway, and wait until it has ended.

    Args:
        seconds: How long to wait; 0 to return at once.

    Raises:
        NoGateway: Nothing was done.
        StillThere: It was asked, and had not ended after ``seconds``.
    """
    try:
        connection_key(gateway)
    except ValueError as error:
        raise BadGateway(f"--gateway {gateway[:70]!a}: {error}") from None

    async def stop(reached: Reached) -> None:
        async with Listening.begin(reached.broker) as listening:
            report = await _report(listening, gateway)
            await ask_to_drain(reached.broker, gateway, report.incarnation)
            told = {"gateway": gateway, "incarnation": report.incarnation, "connections": report.connections}
            _say(told, f"{gateway} drains: {report.connections} connections get 1012", as_json=as_json)
            if seconds:
                await _until_ended(listening, report, seconds)
                _say({**told, "ended": True}, f"{gateway} has ended", as_json=as_json)

    operate(stop, data, "drain")


async def ask_to_drain(broker: Broker, gateway: str, incarnation: str) -> None:
    """Ask one run of a gateway to stop as SIGTERM does.

    Raises:
        Unroutable: There is no such gateway any more.
        BrokerError: It was not published.
    """
    message = Message(body=msgspec.json.encode(Drain(incarnation)), persistent=False, app_id="towpath-drain")
    await broker.publish(PUSH, drain_key(gateway), message, mandatory=True)


async def _report(listening: Listening, gateway: str) -> GatewayReport:
    try:
        await listening.ask(gateway, most=0)
    except Unroutable:
        raise NoGateway(
            f"no gateway {gateway[:70]!a} is on this broker; `towpath status` lists them"
        ) from None
    deadline = asyncio.get_running_loop().time() + _ANSWER_SECONDS
    while await listening.until(deadline):
        for (name, _), (report, _) in listening.programs.reports.items():
            if name == gateway:
                return report
    raise NoGateway(
        f"gateway {gateway[:70]!a} does not answer within {_ANSWER_SECONDS:g} s: stop its process (SIGTERM); "
        "it is of an earlier version, or overloaded"
    )


async def _until_ended(listening: Listening, report: GatewayReport, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    run = report.gateway_id, report.incarnation
    while loop.time() < deadline:
        listening.programs.reports.clear()
        try:
            await listening.ask(report.gateway_id, most=0)
        except Unroutable:
            return
        pause = loop.time() + _POLL_SECONDS
        while await listening.until(pause):
            pass
        answered = listening.programs.reports
        # Its supervisor may have started it again under the same id.
        if answered and run not in answered:
            return
    raise StillThere(f"{report.gateway_id} drains, and had not ended after {seconds:g} s")


def _say(told: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(told)
    else:
        screen.console().print(plain(text))
