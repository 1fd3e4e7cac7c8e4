"""A world whose gateways check tokens and read revocations, and whose replicas take what has arrived together."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import msgspec

from tests.e2e.group_world import Gateway, World
from towpath.chat.app import CHAT
from towpath.gateway.admission.credentials import Admission, Identity, TokenRefused
from towpath.gateway.forwarding.refresh import REFRESH, Refresh
from towpath.gateway.forwarding.revoking import Revoking
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import Head, make
from towpath.protocol.errors import TowpathError
from towpath.protocol.revocations import Kind, Revocation, write
from towpath.protocol.routes import PUSH
from towpath.servicekit.broker.interface import Broker, Message
from towpath.servicekit.broker.memory import MemoryBroker
from towpath.servicekit.messaging.lanes import Lanes
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service
from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import A_DAY, a_token


class Tokens:
    """Tokens of users, each issued a second after the one before it, in the past.

    Attributes:
        revoked: Ids of revoked tokens, with the moment of the revocation on the clock of the trial.
    """

    def __init__(self) -> None:
        self._issued = itertools.count(int(time.time()) - 10_000_000)
        self._last = 0
        self._of_user: dict[str, dict[str, str]] = {}
        self.revoked: dict[str, int] = {}

    def issue(self, user: str) -> tuple[str, str]:
        """A new token, and its id."""
        self._last = next(self._issued)
        token_id = f"t-{self._last}"
        token = a_token(user, expires_in=A_DAY, iat=self._last, jti=token_id)
        self._of_user.setdefault(user, {})[token_id] = token
        return token_id, token

    def revoke_one(self, token_id: str, now: int) -> tuple[Kind, Revocation]:
        """Revoke one token; returns what to publish."""
        self.revoked.setdefault(token_id, now)
        return Kind.TOKEN, Revocation(until=time.time() + A_DAY, token_id=token_id)

    def revoke_all(self, user: str, now: int) -> tuple[Kind, Revocation]:
        """Revoke the tokens of a user that were issued so far."""
        for token_id in self._of_user.pop(user, {}):
            self.revoked.setdefault(token_id, now)
        return Kind.USER, Revocation(until=time.time() + A_DAY, user_id=user, before=self._last)


class CheckingGateway(Gateway):
    """A gateway that lets in whom the token of a connect names, and forgets none of the revocations."""

    def __init__(
        self, broker: MemoryBroker, subscription: Any, lanes: Lanes, settings: GatewaySettings
    ) -> None:
        super().__init__(broker, subscription, lanes, settings)
        self._telemetry = Telemetry("test", settings)
        self._admission = Admission(settings, self._telemetry)
        self._refresh = Refresh(self._admission, lambda *_: None)
        self.token = ""

    def revoking(self, broker: Broker) -> Revoking:
        """The reader of revocations, on a connection of its own."""
        return Revoking(broker, self._admission.revocations, self.members, self._settings, self._telemetry)

    def identify(self, user: str) -> Identity:
        """The identity of :attr:`token`, which ``user`` holds.

        Raises:
            TokenRefused
        """
        return self._admission.identify(self.token)

    def refresh(self, session: Session, token: str) -> bool:
        """Refresh with a token; returns whether it was accepted."""
        envelope = make(REFRESH, {"token": token})
        try:
            self._refresh.handle(
                session, msgspec.json.decode(envelope.to_json(), type=Head), envelope.to_json()
            )
        except TowpathError:
            return False
        return True


class BusyWorld(World):
    """See the head of this module."""

    most_at_once = 10
    gateway_type = CheckingGateway

    @classmethod
    @asynccontextmanager
    async def running(cls, database_url: str, service: Service[Any] = CHAT) -> AsyncIterator[Self]:
        async with super().running(database_url, service) as world, AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for number, gateway in enumerate(world.gateways):
                assert isinstance(gateway, CheckingGateway)
                name = f"gateway-{number} revocations"
                revoking = gateway.revoking(await stack.enter_async_context(world.hub.connect(name=name)))
                stack.callback(tasks.create_task(revoking.run()).cancel)
                await eventually(lambda reader=revoking: reader.is_current)  # type: ignore[misc]
            yield world

    def come(self, name: str, user: str, gateway: int, token: str) -> bool:
        """Connect with a token; returns whether it was accepted."""
        place = self.gateways[gateway]
        assert isinstance(place, CheckingGateway)
        place.token = token
        try:
            self.connect(name, user, gateway)
        except TokenRefused:
            return False
        return True

    def refresh(self, name: str, token: str) -> bool:
        """Refresh a connection with a token; returns whether it was accepted."""
        gateway, session = self.sessions[name]
        assert isinstance(gateway, CheckingGateway)
        return gateway.refresh(session, token)


async def publish_revocation(broker: Broker, kind: Kind, revocation: Revocation) -> None:
    """Publish a revocation as an operator does."""
    await broker.publish(PUSH, kind.key, Message(body=write([revocation])), mandatory=True)
