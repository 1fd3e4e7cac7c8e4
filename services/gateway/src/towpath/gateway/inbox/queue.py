"""The gateway inbox: the exclusive queue of one replica, and the bindings that it has from the start."""

from typing import Final

from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, SERVICE_ALIVE, connection_key
from towpath.servicekit.broker.interface import Binding, Inbox

#: The catch-all keys that bindings of single users replace (:mod:`~towpath.gateway.inbox.routing`).
CATCH_ALLS: Final = ("user.*", "control.*")
#: The probe adds a word to the keys of this replica and of everyone, and only the probe does
#: (:mod:`~towpath.gateway.inbox.probe`): `#` matches also no word.
_WITH_PROBES: Final = ".#"
#: No valid key has three words: a dot in an id is encoded. So these keys match only pushes with an unencoded dot, to
#: be counted and logged. Other misspelled keys match the catch-alls.
_TOO_MANY_WORDS: Final = tuple(f"{kind}.*.*.#" for kind in ("user", "group", "control"))


def inbox(gateway_id: str) -> Inbox:
    """The queue of one replica, with catch-alls, so that it is complete from the start.

    It is exclusive to the replica's connection, so it is deleted when the replica is gone: no queue fills up with
    pushes that no connection waits for (https://www.rabbitmq.com/docs/queues#exclusive-queues).
    """
    probed = (connection_key(gateway_id) + _WITH_PROBES, EVERYONE + _WITH_PROBES)
    keys = (*probed, "group.*", *CATCH_ALLS, *_TOO_MANY_WORDS)
    bindings = [*(Binding(PUSH, key) for key in keys), Binding(EVENTS, SERVICE_ALIVE)]
    return Inbox(name=f"gateway.{gateway_id}", bindings=bindings)
