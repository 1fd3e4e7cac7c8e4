"""The errors of a publisher: one for each situation, as a tree.

::

    PublisherError
    ├── BadEvent            the event itself is wrong; also a ValueError
    ├── Unroutable          no queue is bound to it: RabbitMQ returned it
    ├── Refused             RabbitMQ does not accept this message from this account
    ├── BrokerRefused       RabbitMQ does not accept this account, at the start
    └── NotConfirmed        not known to be taken: publish it again with the same msg_id
        ├── BrokerUnreachable
        ├── BrokerBlocked
        ├── ExchangeMissing
        ├── QueueFull
        ├── BufferFull
        └── PublisherClosed

Guarantee: after :class:`BadEvent`, :class:`Unroutable` and :class:`Refused` no service has the event. After
:class:`NotConfirmed` one may have it: the same event with the same ``msg_id`` is safe to publish again, and has its
effect once.
"""


class PublisherError(Exception):
    """An event was not published.

    Args:
        text: The problem, the value and the remedy.
        msg_id: Of the event; ``None`` if it has none, or if the error is of no single event.
    """

    def __init__(self, text: str, *, msg_id: str | None = None) -> None:
        super().__init__(text)
        self.msg_id = msg_id


class BadEvent(PublisherError, ValueError):
    """The event cannot be published as it is: a field is malformed, or it is too large."""


class Unroutable(PublisherError):
    """RabbitMQ returned the event: no queue is bound to its routing key, so no service would have got it."""


class Refused(PublisherError):
    """RabbitMQ does not accept this message: the account lacks a permission, or the message is too large for it."""


class BrokerRefused(PublisherError):
    """RabbitMQ does not accept the account, its password, the virtual host or the certificate."""


class NotConfirmed(PublisherError):
    """RabbitMQ has not confirmed the event within the time limit; whether a service gets it is unknown."""


class BrokerUnreachable(NotConfirmed):
    """No connection to RabbitMQ within the time limit."""


class BrokerBlocked(NotConfirmed):
    """RabbitMQ accepts no messages for now (memory or disk alarm): https://www.rabbitmq.com/docs/alarms"""


class ExchangeMissing(NotConfirmed):
    """The exchange does not exist: Towpath was never started on this virtual host."""


class QueueFull(NotConfirmed):
    """A queue for this event is full, or has no leader: RabbitMQ answered with ``basic.nack``."""


class BufferFull(NotConfirmed):
    """Too many events of this publisher wait for their confirms, and no place became free in time."""


class PublisherClosed(NotConfirmed):
    """The publisher is not open, or was closed while the event waited."""
