"""The supervisor: keeps a link to RabbitMQ open, and on it the desired topology and subscriptions.

One task opens a link, creates topology and subscriptions from the desired state, and maintains them until the link is
lost; then it drops everything and starts again with the next host. Guarantees:

* Hosts are tried round robin from a random one; between two rounds there is a wait with full jitter, see
  :mod:`~towpath.servicekit.broker.rabbitmq.hosts`.
* A subscription that the broker ended (its queue was deleted, its channel closed) is created again, with its queues
  and bindings; the link and the rest continue. If that fails, a new link is opened.
* At least every ``CHECK_EVERY`` seconds bindings are verified and the topology is declared again, which changes
  nothing if it is complete: a deleted queue or binding is restored, and a subscription whose queue has no consumer is
  created again.
* A connection that receives nothing (half-open, or cut in one direction) is found within 15 s, and the link is
  dropped if a host answers on a new connection. If none does, RabbitMQ as a whole is silent (paused or unreachable),
  and dropping the link would not help: this is logged, and left to the driver's heartbeats.
* Every loss that is found is passed to ``on_loss`` callbacks.
* Every error is logged and retried. Only a refusal by every host at the start ends the supervisor.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import structlog
from yarl import URL

from towpath.servicekit.broker.interface import BrokerRefused, Lost, OnLoss, Topology, TopologyMismatch
from towpath.servicekit.broker.rabbitmq.connection import LOST, abandon, answers, reason_of
from towpath.servicekit.broker.rabbitmq.declaring import Existing
from towpath.servicekit.broker.rabbitmq.hosts import Hosts
from towpath.servicekit.broker.rabbitmq.link import Link
from towpath.servicekit.broker.rabbitmq.refusals import is_refusal, refused_connection
from towpath.servicekit.broker.rabbitmq.subscription import RabbitSubscription
from towpath.servicekit.runtime.amqp_url import shown

log = structlog.get_logger(__name__)

#: Longest time until a lost queue, binding or consumer is found. A check declares every queue again.
CHECK_EVERY: Final = 8.0

#: Seconds between two checks for a silent connection, and the time limit of a host's answer on a new connection.
_SILENCE_CHECK_SECONDS: Final = 0.5
_ANSWER_TIMEOUT: Final = 3.0
#: Seconds after its start in which a subscription is not checked for a missing consumer.
_CONSUMER_CHECK_GRACE: Final = 2.0

#: Programs that lost the same thing at the same moment reconnect spread over this many seconds.
_SPREAD: Final = 1.0


class Supervisor:
    """Keeps a link open; see :meth:`run`.

    Attributes:
        link: The current link, or ``None``.
        decided: Set while a link is open, and when there will never be one.
        refusal: Why there will never be one.
        reconnects: Links that were opened after the first one.
        topologies, subscriptions: The desired state.
    """

    def __init__(self, hosts: Hosts, *, name: str, reconnect_max: float) -> None:
        self._hosts = hosts
        self._name = name
        self._spread = min(_SPREAD, reconnect_max)
        self._ended: dict[RabbitSubscription, tuple[Lost, str]] = {}
        self._needs_repair = asyncio.Event()
        self._rebuilt_callbacks: list[Callable[[], None]] = []
        self._loss_callbacks: list[OnLoss] = []
        self._is_dropped = False
        self._existing = Existing()
        self.link: Link | None = None
        self.decided = asyncio.Event()
        self.refusal: BrokerRefused | None = None
        self.reconnects = 0
        self.topologies: list[Topology] = []
        self.subscriptions: list[RabbitSubscription] = []

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        """See :meth:`towpath.servicekit.broker.interface.Broker.on_rebuilt`."""
        self._rebuilt_callbacks.append(callback)

    def on_loss(self, callback: OnLoss) -> None:
        """See :meth:`towpath.servicekit.broker.interface.Broker.on_loss`."""
        self._loss_callbacks.append(callback)

    def rebuild(self, reason: str) -> None:
        """See :meth:`towpath.servicekit.broker.interface.Broker.rebuild`."""
        if self.link is not None and not self.link.lost.done():
            self._is_dropped = True  # The caller has found the loss already.
            self.link.fail(reason)

    def subscription_ended(self, subscription: RabbitSubscription, what: Lost, reason: str) -> None:
        """Record that the broker ended a subscription."""
        self._ended.setdefault(subscription, (what, reason))
        self._needs_repair.set()

    async def run(self) -> None:
        """Keep a link open until cancelled; returns only when there will never be one."""
        first = True
        while True:
            try:
                link, url = await self._connect(first=first)
            except BrokerRefused as refusal:
                # Then `decided`, which wakes callers that look at it.
                self.refusal = refusal
                self.decided.set()
                return
            self.link = link
            self.decided.set()
            log.info("broker_connected" if first else "broker_reconnected", url=shown(url))
            self.reconnects += not first
            self._notify_rebuilt(is_first=first)
            first = False
            reason = await self._maintain(link)
            self.decided.clear()
            log.warning("broker_lost", url=shown(url), reason=reason)
            # A loss that the caller of `rebuild` has found is reported by the caller.
            if not self._is_dropped:
                self._found(Lost.CONNECTION, reason)
            self._is_dropped = False
            await self.drop()
            # All programs lost RabbitMQ at the same moment; without jitter they would all be back at the same moment.
            await asyncio.sleep(self._jitter(self._spread))

    async def drop(self) -> None:
        """Drop the link and everything on it; takes 2 s at most."""
        link, self.link = self.link, None
        if link is not None:
            await link.close()
        await asyncio.gather(*(subscription.stop() for subscription in self.subscriptions))

    # Opening a link

    async def _connect(self, *, first: bool) -> tuple[Link, URL]:
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            url = self._hosts.next()
            try:
                link = await self._open(url)
            except Exception as error:
                wait = self._hosts.failed(url, refused=is_refusal(error), outage=now() - began)
                # Later on a refusal is retried as well: an operator may be changing the password.
                # At the start, by every host: a setting is wrong, and the operator should see it now.
                if first and self._hosts.all_refuse:
                    raise refused_connection(url, error) from None
                event = "topology_differs" if isinstance(error, TopologyMismatch) else "broker_unreachable"
                log.warning(event, url=shown(url), error=reason_of(error), retry_in_s=round(wait, 2))
                await asyncio.sleep(wait)
            else:
                self._hosts.connected()
                return link, url

    async def _open(self, url: URL) -> Link:
        link = await Link.open(url, self._name, self._existing)
        try:
            self._ended.clear()
            # Queues and exchanges first: a subscription needs them.
            for topology in self.topologies:
                await link.declare(topology)
            for subscription in list(self.subscriptions):
                # Held: `on_rebuilt` callbacks run before the first delivery, see `_notify_rebuilt`.
                await subscription.start(link, held=True)
        except BaseException:
            # Half of it restored is not a link: the next attempt begins from nothing.
            await link.close()
            raise
        return link

    # Maintaining a link

    async def _maintain(self, link: Link) -> str:
        watching = asyncio.create_task(link.watch_alarm(), name=f"{self._name}: alarm")
        tending = asyncio.create_task(self._repair_and_check(link), name=f"{self._name}: tend")
        listening = asyncio.create_task(self._watch_silence(link), name=f"{self._name}: silence")
        tasks = (watching, tending, listening)
        try:
            ends: list[asyncio.Future[Any]] = [link.lost, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    # A watcher ends after it has failed the link, or with an error: a link without its watchers would
                    # hide its defects, so it is replaced.
                    link.fail(reason_of(task.exception()))
            return link.lost.result()
        finally:
            for task in tasks:
                abandon(task)

    async def _watch_silence(self, link: Link) -> None:
        """Drop ``link`` once one of its connections is silent while RabbitMQ answers on a new one."""
        is_logged = False
        while True:
            await asyncio.sleep(_SILENCE_CHECK_SECONDS)
            if link.silent() is None:
                is_logged = False
                continue
            # Every host is asked: dropping the link helps only if a new one could be opened.
            asked = (answers(url, f"{self._name} check", timeout=_ANSWER_TIMEOUT) for url in self._hosts.all)
            is_there = any(await asyncio.gather(*asked))
            # Checked again: if this process itself was paused, the bytes received meanwhile are read by now.
            if (silent := link.silent()) is None:
                continue
            if is_there:
                link.fail(f"the {silent} connection receives nothing, and RabbitMQ answers on a new one")
                return
            if not is_logged:
                is_logged = True
                log.warning("broker_silent", connection=silent)

    async def _repair_and_check(self, link: Link) -> None:
        while True:
            try:
                # With jitter, or all programs that started together would declare everything at the same moments.
                async with asyncio.timeout(CHECK_EVERY - self._jitter(CHECK_EVERY / 4)):
                    await self._needs_repair.wait()
            except TimeoutError:
                await self._check(link)
            else:
                # A deleted queue ends the consumers of all replicas at once.
                await asyncio.sleep(self._jitter(self._spread))
                await self._repair(link)

    async def _repair(self, link: Link) -> None:
        """Create again the subscriptions that the broker ended; an error ends the link."""
        # Cleared before the list is taken: a subscription that ends during the repair causes another one.
        self._needs_repair.clear()
        ended, self._ended = self._ended, {}
        wanted = [one for one in ended if one in self.subscriptions]
        for subscription in wanted:
            what, reason = ended[subscription]
            log.warning("subscription_ended", queues=subscription.names, reason=reason)
            self._found(what, f"{', '.join(subscription.names[:3])}: {reason}")
        if not wanted:
            return
        # A deleted queue ended its consumer, and must exist again before it is consumed.
        for topology in self.topologies:
            await link.declare(topology)
        for subscription in wanted:
            try:
                await subscription.start(link, held=True)
            except Exception:
                if subscription in self.subscriptions:  # Else its context was left meanwhile.
                    raise
        log.info("subscription_restored", queues=[name for one in wanted for name in one.names])
        self._notify_rebuilt()

    async def _check(self, link: Link) -> None:
        """Declare everything again, and check that each queue has a consumer; a slow link does not count as lost."""
        consumed = [one for one in self.subscriptions if one.started_before(_CONSUMER_CHECK_GRACE)]
        for topology in self.topologies:
            # A publish would hang in an alarm: bindings are verified when it is over.
            if not link.blocked:
                await self._verify_bindings(link, topology)
            try:
                consumers = await link.declare(topology)
            except Exception as error:
                log.warning("broker_check_failed", error=reason_of(error))
                return
            for subscription in (one for one in consumed if one.is_taking):
                for name in subscription.names:
                    # RabbitMQ has lost the consumer without a word to this program: its deliveries would stop, and
                    # nothing else would show it.
                    if consumers.get(name) == 0:
                        self.subscription_ended(subscription, Lost.CONSUMER, f"{name} has no consumer")

    async def _verify_bindings(self, link: Link, topology: Topology) -> None:
        try:
            lost = await link.unbound(topology)
        except LOST as error:
            log.warning("broker_check_failed", error=reason_of(error))
            return
        for binding in lost:
            self._found(Lost.BINDING, f"no queue is bound to {binding.routing_key} on {binding.exchange}")

    def _found(self, what: Lost, how: str) -> None:
        for callback in self._loss_callbacks:
            try:
                callback(what, how)
            except Exception:
                log.exception("loss_callback_failed")

    def _notify_rebuilt(self, *, is_first: bool = False) -> None:
        """Call the ``on_rebuilt`` callbacks, and only then hand out deliveries."""
        for callback in () if is_first else self._rebuilt_callbacks:
            try:
                callback()
            except Exception:
                log.exception("rebuilt_callback_failed")
        for subscription in self.subscriptions:
            # Only now: a delivery that is handled before the callbacks would meet state of the lost link.
            subscription.hand_out()

    def _jitter(self, most: float) -> float:
        return random.uniform(0, most)  # noqa: S311  # jitter
