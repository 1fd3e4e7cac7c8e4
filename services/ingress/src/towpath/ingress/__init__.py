"""The HTTP ingress: events and pushes of other backends, for those that speak no AMQP.

It checks an item as its readers do, publishes it in the name of the caller's key, and answers once RabbitMQ has
confirmed it. It stores nothing: an event's ``msg_id`` makes it take effect once, and with an ``Idempotency-Key`` the
``msg_id`` follows from that key alone, so any replica gives a repeated request the same one.

The way of a request:

1. ``listener`` reads it, within limits of connections, bytes and time.
2. ``api`` finds the caller (``keys``), charges its rate, and reads the body within its limits (``bodies``).
3. ``items`` makes an envelope of each item, or says what is wrong with it.
4. ``publishing`` publishes them in their order and waits for the confirms.
5. ``api`` answers: 202 if all are accepted, else with each item's result (``problems``).
"""
