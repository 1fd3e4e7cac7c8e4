"""``towpath publish``: an order event, sent as another backend sends it."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from towpath.servicekit import logs
from towpath.servicekit.settings import BrokerSettings, load
from towpath.tools import order_events
from towpath.tools.brokers import AMQP_URL, GivenBroker
from towpath.tools.data_folder import DataFolder
from towpath.tools.order_events import BadEvent, NotPublished
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
    order_events.check(action, data)
    given, dev = os.environ.get(AMQP_URL), folder.running()
    if given and not given.startswith("memory:"):
        return asyncio.run(_to_broker(given, action, data, msg_id))
    if dev is None:
        raise NoBrokerKnown(
            f"there is no broker to publish to: set {AMQP_URL}, or start `towpath dev` (none runs in {folder})"
        )
    if dev.amqp_url is not None:
        return asyncio.run(_to_broker(dev.amqp_url, action, data, msg_id))
    return asyncio.run(_through_page(dev.page, action, data, msg_id))


async def _to_broker(url: str, action: str, data: Mapping[str, Any], msg_id: str | None) -> str:
    settings = _settings(url)
    logs.configure("publish", settings)
    async with GivenBroker(url).open() as given, given.connected(settings, order_events.APP_ID) as broker:
        return await order_events.publish(broker, action, data, msg_id)


async def _through_page(page: str, action: str, data: Mapping[str, Any], msg_id: str | None) -> str:
    # The memory broker is inside another process; its page publishes for us.
    body = {"action": action, "data": data, **({} if msg_id is None else {"msg_id": msg_id})}
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{page}/demo/events", json=body) as response,
        ):
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NotPublished(f"{action} was not published: {page} does not answer ({error})") from None
    if response.status != 200:
        raise (BadEvent if response.status == 400 else NotPublished)(answer["error"])
    return str(answer["msg_id"])


def _settings(url: str) -> BrokerSettings:
    settings = load(BrokerSettings) if os.environ.get(AMQP_URL) else BrokerSettings(amqp_url=url)
    return settings.model_copy(update={"amqp_url": url, "log_level": "error"})
