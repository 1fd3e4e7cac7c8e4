"""``towpath publish``: an order event, sent as another backend sends it."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from towpath.protocol.envelope import Envelope
from towpath.servicekit.runtime import logs
from towpath.servicekit.runtime.settings import BrokerSettings, load
from towpath.tools import order_events
from towpath.tools.brokers import AMQP_URL, GivenBroker
from towpath.tools.data_folder import DataFolder
from towpath.tools.order_events import NotPublished
from towpath.tools.trouble import Trouble

_ANSWER_SECONDS: Final = 15.0


class NoBrokerKnown(Trouble):
    """Nothing says where to publish."""


def publish_event(action: str, data: Mapping[str, Any], *, msg_id: str | None, folder: DataFolder) -> str:
    """Publish one event and return its ``msg_id`` once the broker has it safely.

    Raises:
        BadEvent, NotPublished: See :func:`towpath.tools.order_events.publish`.
        NoBrokerKnown, BadSetting, BrokerRefused: There is no broker to publish to.
    """
    event = order_events.order_event(action, data, msg_id)
    given, dev = os.environ.get(AMQP_URL), folder.running()
    if given and not given.startswith("memory:"):
        asyncio.run(_to_broker(given, event))
    elif dev is None:
        raise NoBrokerKnown(
            f"there is no broker to publish to: set {AMQP_URL}, or start `towpath dev` (none runs in {folder})"
        )
    elif dev.amqp_url is not None:
        asyncio.run(_to_broker(dev.amqp_url, event))
    else:
        asyncio.run(_through_page(dev.page, event))
    return event.msg_id


async def _to_broker(url: str, event: Envelope) -> None:
    settings = _settings(url)
    logs.configure("publish", settings)
    async with GivenBroker(url).open() as given, given.connected(settings, order_events.APP_ID) as broker:
        await order_events.publish(broker, event)


async def _through_page(page: str, event: Envelope) -> None:
    # The memory broker is inside another process; its page publishes for us.
    body = {"action": event.action, "data": event.data, "msg_id": event.msg_id}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)) as session,
            session.post(f"{page}/demo/events", json=body) as response,
        ):
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NotPublished(f"{event.action} was not published: {page} does not answer ({error})") from None
    if response.status != 200:
        raise NotPublished(answer["error"])


def _settings(url: str) -> BrokerSettings:
    settings = load(BrokerSettings) if os.environ.get(AMQP_URL) else BrokerSettings(amqp_url=url)
    return settings.model_copy(update={"amqp_url": url, "log_level": "error"})
