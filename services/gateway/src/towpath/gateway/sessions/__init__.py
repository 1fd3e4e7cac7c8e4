"""Sessions: the connections of this replica, what each may send, and which groups each is in. It knows no WebSocket.

Guarantees: ``members`` is the only source of local membership. ``allowance`` bounds what a connection may send, with
the ``limits`` that its user and its address share. ``heartbeat`` closes silent connections, ``drain`` closes all of
them in steps, and ``announcer`` publishes their start and end.
"""
