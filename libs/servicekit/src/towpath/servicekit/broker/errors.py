"""Errors of a broker.

::

    BrokerError
    ├── BrokerUnavailable     nothing was sent, there is no connection: publish again once it is back
    ├── BrokerBlocked         nothing was sent, a memory or disk alarm: publish again once it is over
    ├── LaneFull              nothing was sent, too much waits already (messaging.lanes)
    ├── PublishUnconfirmed    the outcome is unknown: publish again, and the message may arrive twice
    ├── PublishRefused        a queue is full: publish again once there is room
    ├── Unroutable            no queue is bound; only for mandatory publishes
    ├── Unpublishable         the broker will never accept this message: do not publish it again
    ├── BrokerRefused         (also CannotStart) user, password, virtual host or a permission is refused
    └── TopologyMismatch      (also CannotStart) an exchange or queue exists with other arguments

``CannotStart`` ends the program with an exit status of its kind and one line for the operator.
"""

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import CannotStart


class BrokerError(Exception):
    """A publish or declaration failed.

    The subclass says whether a repetition can succeed, and whether the first attempt may have had an effect:
    only :class:`PublishUnconfirmed` and :class:`PublishRefused` leave that open.
    """


class Unroutable(BrokerError):
    """No queue is bound to the routing key (only for mandatory publishes)."""


class PublishRefused(BrokerError):
    """The broker refused the message: a queue is full."""


class Unpublishable(BrokerError):
    """The broker will never accept this message: a retry cannot succeed.

    Attributes:
        of_content: The body is the reason, so other bodies for the same routing key may be accepted.
    """

    def __init__(self, reason: str, *, of_content: bool = False) -> None:
        super().__init__(reason)
        self.of_content = of_content


class PublishUnconfirmed(BrokerError):
    """No confirm in time, an alarm or a broken connection meanwhile: the outcome is unknown."""


class BrokerUnavailable(BrokerError):
    """No connection; nothing was sent."""


class BrokerBlocked(BrokerError):
    """The broker accepts no publishes for now (memory or disk alarm); nothing was sent."""


class BrokerRefused(BrokerError, CannotStart):
    """The broker refused user, password or virtual host at the first connect, or a permission is missing.

    The text names the setting.
    """

    status = ExitStatus.REFUSED


class TopologyMismatch(BrokerError, CannotStart):
    """An exchange or queue exists with other arguments; the message names it and the remedy."""

    status = ExitStatus.DIFFERS
