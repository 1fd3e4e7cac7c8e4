"""``towpath-relay``: publishes the outbox of a PostgreSQL database to Towpath.

Guarantees:

* A row is deleted after RabbitMQ has confirmed its event, and not before; a relay or broker that dies between the two
  publishes it again with the same ``msg_id``.
* Events of one aggregate are published in the order of their commits, one at a time, also over failures: a row that
  cannot be published is parked with its reason, and later rows of its aggregate wait until an operator retries or
  drops it. Other aggregates continue.
* Of several relays of one outbox one is active; another takes over within seconds.
* At most ``relay_batch`` rows of ``relay_batch_bytes`` are in memory.
"""
