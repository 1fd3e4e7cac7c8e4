"""The broker as an operator's command uses it: found, greeted, and connected to for one piece of work.

Guarantee: a broker that cannot be used is one line, within seconds.
"""

import asyncio
import getpass
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from towpath.servicekit.broker import connect
from towpath.servicekit.broker.interface import Broker
from towpath.servicekit.runtime import amqp_url, logs
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings, load
from towpath.tools.brokers import AMQP_URL, port_of
from towpath.tools.data_folder import DataFolder
from towpath.tools.greeting import Greeting, NoBroker, greet
from towpath.tools.trouble import Interrupted, Trouble

T = TypeVar("T")

_CONNECT_SECONDS: Final = 15.0


class NoConnection(Trouble):
    """The broker cannot be reached."""

    status = 2


@dataclass(frozen=True, slots=True)
class Reached:
    """A broker that is connected.

    Attributes:
        version: Its product and version, as it gives them.
    """

    broker: Broker
    version: str


def operate(work: Callable[[Reached], Coroutine[Any, Any, T]], data: Path, command: str) -> T:
    """Like :func:`run`, for commands that only look, and also where an alarm blocks publishes.

    Ctrl-C ends them.

    Raises:
        BadSetting, NoConnection, Interrupted
    """
    settings = settings_of(DataFolder(data), command)

    async def connected() -> T:
        greeting = await greeting_of(settings.amqp_url)
        async with connected_to(settings, command) as broker:
            return await work(Reached(broker, greeting))

    try:
        return asyncio.run(connected())
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None


def run(work: Callable[[Broker], Coroutine[Any, Any, T]], data: Path, command: str) -> T:
    """Do ``work`` with a connection to ``TOWPATH_AMQP_URL``, or to the `towpath dev` that runs in ``data``.

    Args:
        command: Names the connection on the broker, and the log.

    Raises:
        BadSetting, NoConnection, Interrupted
    """
    settings = settings_of(DataFolder(data), command)

    async def connected() -> T:
        await greeting_of(settings.amqp_url)
        async with connected_to(settings, command) as broker:
            return await work(broker)

    try:
        return asyncio.run(connected())
    except KeyboardInterrupt:
        # Nothing was taken out yet: a later Ctrl-C ends in `_do`.
        raise Interrupted("interrupted; nothing was changed") from None


@asynccontextmanager
async def connected_to(settings: BrokerSettings, command: str) -> AsyncIterator[Broker]:
    """A connection to the broker, once there is one.

    Raises:
        NoConnection, BrokerRefused
    """
    async with connect(settings, f"towpath {command}") as broker:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await broker.until_ready()
        except TimeoutError:
            raise NoConnection(f"no connection to RabbitMQ within {_CONNECT_SECONDS:g} s") from None
        yield broker


def settings_of(folder: DataFolder, command: str) -> BrokerSettings:
    """The settings of the broker, and logs that a person reads.

    Raises:
        BadSetting: There is no broker to use.
    """
    given, dev = os.environ.get(AMQP_URL), folder.running()
    if not given and dev is None:
        raise BadSetting(AMQP_URL, None, f"is not set, and no `towpath dev` runs in {folder}")
    if given:
        settings = load(BrokerSettings)
    elif dev is not None and dev.amqp_url is not None:
        settings = BrokerSettings(amqp_url=dev.amqp_url)
    else:
        settings = BrokerSettings(amqp_url="memory://")
    if settings.amqp_url.startswith("memory:"):
        raise BadSetting(
            AMQP_URL,
            "memory://",
            "nothing of the memory broker can be seen from outside its process, nor outlives it",
        )
    # Without a limit: of a replay or a drop each line counts.
    logs.configure(command, settings.model_copy(update={"log_level": "info", "log_burst": sys.maxsize}))
    for name in ("towpath.servicekit", "aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return settings


async def greeting_of(url: str) -> str:
    """Find out in milliseconds whether there is a broker, where a connection would be tried again and again.

    Returns:
        Product and version; empty where only TLS would show them.

    Raises:
        BadSetting: None of its hosts answers.
    """
    hosts = [host for host in amqp_url.hosts(url) if host.scheme == "amqp"]
    greetings = (greet(host.host or "", port_of(host)) for host in hosts)
    answers = await asyncio.gather(*greetings, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, NoBroker):
            raise answer
    if answers and all(isinstance(answer, NoBroker) for answer in answers):
        raise BadSetting(AMQP_URL, amqp_url.shown(hosts[0]), f"{answers[0]}; start the broker")
    return next((str(answer) for answer in answers if isinstance(answer, Greeting)), "")


def who() -> str:
    """The name of the person at the terminal, for records."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"
