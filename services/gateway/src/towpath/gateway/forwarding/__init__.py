"""Forwarding: envelopes from clients to the broker (``inbound``), and from the broker to clients (``outbound``).

Guarantees: a client's JSON is never changed; every request gets an answer; no message from a client, a service or a
backend can end the program. ``costs`` holds what each action costs, ``directed`` checks items for single connections.
"""
